"""A snapshot comes back whole, or is refused by name; every truncation and every flipped byte."""

from __future__ import annotations

import gc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guestmemfs_fuse.core import evolve
from guestmemfs_fuse.core.errors import CorruptMetadataError, ForeignMetadataError, MetadataError
from guestmemfs_fuse.core.state import State
from guestmemfs_fuse.metadata import framing, snapshot
from tests.unit.metadata.memory_files import MemoryFiles
from tests.unit.metadata.workload import OTHER_REGION, REGION, dump_of, fresh_state, transactions

NAME = "snapshot-0000000000000009.gms"


def grown_state(seed: int = 3, count: int = 80, *, extents: bool = False) -> State:
    state = fresh_state(extents=extents)
    for transaction in transactions(seed, count, extents=extents):
        evolve.apply(state, transaction)
    return state


def written(state: State) -> MemoryFiles:
    files = MemoryFiles()
    assert snapshot.write(files, REGION, 9, state) == files.size_bytes(NAME)
    return files


def test_names_say_the_last_sequence() -> None:
    assert snapshot.snapshot_name(9) == NAME
    assert snapshot.last_sequence_of(NAME) == 9
    assert snapshot.last_sequence_of(NAME + ".1.tmp") is None
    assert snapshot.last_sequence_of("journal-0000000000000009.gmj") is None


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000), st.booleans())
def test_a_state_comes_back(seed: int, extents: bool) -> None:
    state = grown_state(seed, extents=extents)
    again, size_bytes = snapshot.read(written(state), REGION, 9)
    assert dump_of(again) == dump_of(state)
    assert again.usage == {uid: owned for uid, owned in state.usage.items() if owned.files}
    assert again.orphans == state.orphans
    if state.free is not None and again.free is not None:
        assert again.free.free_extents() == state.free.free_extents()
    assert size_bytes > 0


def test_it_replaces_what_stood_there_and_is_durable() -> None:
    files = written(grown_state())
    snapshot.write(files, REGION, 9, fresh_state())
    assert files.names() == [NAME]
    survivor = files.after_power_cut(lambda: False)
    assert dump_of(snapshot.read(survivor, REGION, 9)[0]) == dump_of(fresh_state())


def test_every_truncation_is_refused_by_name() -> None:
    files = written(grown_state(count=25))
    whole = files.read(NAME)
    for length in range(len(whole)):
        files.put(NAME, whole[:length])
        with pytest.raises(CorruptMetadataError, match=NAME):
            snapshot.read(files, REGION, 9)


def test_every_flipped_byte_is_refused_by_name() -> None:
    files = written(grown_state(count=25))
    whole = files.read(NAME)
    for at in range(len(whole)):
        data = bytearray(whole)
        data[at] ^= 0x10
        files.put(NAME, bytes(data))
        with pytest.raises(MetadataError, match=NAME):
            snapshot.read(files, REGION, 9)


def test_frames_lost_doubled_or_added_with_right_checksums_are_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The trailer counts: also what is in itself valid must be all there, once."""
    monkeypatch.setattr(snapshot, "_ITEMS_PER_FRAME", 2)
    state = grown_state(count=25)
    header = framing.FileHeader(framing.FileKind.SNAPSHOT, REGION, 9, 1)
    packed, *frames = snapshot.pack_snapshot(header, state)
    payloads = [frame[framing.FRAME_HEADER_BYTES :] for frame in frames]
    seed = framing.seed_of(packed)
    *items, trailer = payloads
    assert len(items) > 3
    wrong = {
        "one lost": [*items[:1], *items[2:], trailer],
        "one doubled": [*items[:2], items[1], *items[2:], trailer],
        "two swapped": [items[0], items[2], items[1], *items[3:], trailer],
        "no trailer": items,
        "trailer in between": [*items[:-1], trailer, items[-1]],
        "two trailers": [*items, trailer, trailer],
        "a frame of another kind": [*items, b"\x92\x07\x90", trailer],
        "not a list": [*items, b"\x07", trailer],
        "items that are no inodes": [*items, b"\x92\x00\x91\x07", trailer],
    }
    for what, chosen in wrong.items():
        files = MemoryFiles()
        body = b"".join(framing.pack_frame(seed, number, one) for number, one in enumerate(chosen, 1))
        files.put(NAME, packed + body)
        with pytest.raises(CorruptMetadataError, match=NAME):
            snapshot.read(files, REGION, 9)
            pytest.fail(what)


def test_another_region_and_another_sequence_are_refused() -> None:
    files = written(fresh_state())
    with pytest.raises(ForeignMetadataError, match=NAME):
        snapshot.read(files, OTHER_REGION, 9)
    files.put(snapshot.snapshot_name(10), files.read(NAME))
    with pytest.raises(CorruptMetadataError, match="contains transactions up to 9"):
        snapshot.read(files, REGION, 10)


def test_garbage_collection_is_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    files = written(fresh_state())
    assert gc.isenabled()
    snapshot.read(files, REGION, 9)
    assert gc.isenabled()
    gc.disable()
    try:
        snapshot.read(files, REGION, 9)
        assert not gc.isenabled()
    finally:
        gc.enable()
