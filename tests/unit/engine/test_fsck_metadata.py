"""fsck and the metadata files: torn, damaged, foreign, unknown, missing; what --repair falls back to."""

from __future__ import annotations

from contextlib import suppress
from uuid import UUID

import pytest

from guestmemfs_fuse.core.errors import CorruptMetadataError, MetadataError
from guestmemfs_fuse.core.types import ROOT_INO, Ino
from guestmemfs_fuse.engine import fsck_metadata
from guestmemfs_fuse.metadata import journal, snapshot, store
from guestmemfs_fuse.metadata.store import Store
from tests.unit.engine.fakes import BLOCK
from tests.unit.engine.fsck_rig import REGION, Stopped, lookup
from tests.unit.metadata.memory_files import Crash, MemoryFiles, When, crash_at


def segments(there: Stopped) -> list[str]:
    return [journal.segment_name(first) for first in journal.segments(there.files)]


def flip(files: MemoryFiles, name: str, at: int) -> None:
    data = bytearray(files.read(name))
    data[at] ^= 0xFF
    files.put(name, bytes(data))


def grown() -> Stopped:
    """Several segments: /late is in the second one, /last in the third."""
    there = Stopped()
    there.store.rotate()
    there.late = there.make(b"late")  # type: ignore[attr-defined]
    there.resize(there.late, 3 * BLOCK)  # type: ignore[attr-defined]
    there.store.rotate()
    there.make(b"last")
    return there


def kinds(there: Stopped) -> list[str]:
    return [finding.kind for finding in there.fsck().findings]


def test_a_torn_tail_is_reported_and_cut() -> None:
    there = Stopped()
    name = segments(there)[-1]
    whole = there.files.read(name)
    there.files.put(name, whole + b"\x13\x00\x00\x00half a frame")
    (finding,) = there.fsck().findings
    assert finding.kind == "torn-tail"
    assert name in finding.detail
    there.mended()
    assert there.files.read(name) == whole


def test_what_an_interrupted_writer_left_is_reported_and_removed() -> None:
    there = Stopped()
    there.files.put("snapshot-00000000000000aa.gms.77.tmp", b"half")
    assert kinds(there) == ["leftover-file"]
    there.mended()
    assert not any(name.endswith(".tmp") for name in there.files.names())


def test_damage_in_the_middle_is_named_and_only_repair_falls_back() -> None:
    there = grown()
    second = segments(there)[1]
    flip(there.files, second, 70)
    before = {name: there.files.read(name) for name in there.files.names()}
    result = there.fsck()
    (finding,) = [each for each in result.findings if each.kind == "damaged-metadata"]
    assert second in finding.detail
    assert "would be lost" in result.notes[0]
    assert {name: there.files.read(name) for name in there.files.names()} == before
    with pytest.raises(CorruptMetadataError):
        Store.open(there.files, REGION)


def test_falling_back_keeps_the_memory_of_files_it_knows_nothing_of() -> None:
    there = grown()
    late: Ino = there.late  # type: ignore[attr-defined]
    flip(there.files, segments(there)[1], 70)
    result = there.fsck(repair=True)
    assert result.unrepaired == ()
    (note,) = result.notes
    assert "is lost" in note
    assert there.fsck().clean
    state = there.stored()
    assert lookup(state, b"d", b"f") == there.f
    assert lookup(state, b"lost+found", b"#%d" % late) == late
    assert state.inodes[late].size_bytes == there.region.memory[late] == 3 * BLOCK
    assert any(name.endswith(".damaged") for name in there.files.names()), "the evidence is kept"


def test_after_falling_back_sizes_follow_the_memory_that_is_there() -> None:
    there = Stopped()
    there.store.rotate()
    there.resize(there.g, 6 * BLOCK)
    there.store.rotate()
    there.make(b"later")
    flip(there.files, segments(there)[1], 70)
    there.mended()
    assert there.stored().inodes[there.g].size_bytes == 6 * BLOCK
    assert there.region.memory[there.g] == 6 * BLOCK


def test_after_falling_back_the_connection_is_not_resumed() -> None:
    from guestmemfs_fuse.core import commands as cmd

    there = Stopped()
    there.do(cmd.StartSession(b"init", 42))
    there.store.rotate()
    there.make(b"x")
    there.store.rotate()
    there.make(b"y")
    flip(there.files, segments(there)[1], 70)
    state = there.mended()
    assert state.session is None
    assert 42 in state.devices


def test_a_damaged_newer_snapshot_with_an_intact_older_chain_loses_nothing() -> None:
    there = Stopped()
    there.files.put(snapshot.snapshot_name(4), b"GUESTMEM rubbish")
    assert "damaged-snapshot" in kinds(there)
    state = there.mended()
    assert lookup(state, b"g") == there.g


def test_a_snapshot_that_is_damaged_and_alone_is_not_repaired() -> None:
    there = Stopped()
    there.plant()
    (name,) = [name for name in there.files.names() if name.endswith(".gms")]
    flip(there.files, name, 100)
    before = {name: there.files.read(name) for name in there.files.names()}
    result = there.fsck(repair=True)
    assert [finding.kind for finding in result.unrepaired] == ["damaged-metadata"]
    assert name in result.unrepaired[0].detail
    assert {name: there.files.read(name) for name in there.files.names()} == before


@pytest.mark.parametrize(
    ("at", "kind"), [(8, "unknown-format"), (20, "foreign-metadata"), (0, "damaged-metadata")]
)
def test_headers_of_others_are_never_replaced(at: int, kind: str) -> None:
    there = Stopped()
    there.plant()
    (name,) = [name for name in there.files.names() if name.endswith(".gms")]
    data = bytearray(there.files.read(name))
    if kind == "foreign-metadata":
        other = Stopped()
        other.files = MemoryFiles()
        Store.create(other.files, UUID(int=5), other.state)
        data = bytearray(other.files.read(name))
    else:
        data[at] ^= 0xFF
    there.files.put(name, bytes(data))
    result = there.fsck(repair=True)
    assert [finding.kind for finding in result.unrepaired] == [kind]
    assert name in result.unrepaired[0].detail
    assert there.files.read(name) == bytes(data)


def test_no_metadata_over_memory_is_an_error_and_never_a_fresh_start() -> None:
    there = Stopped()
    for name in there.files.names():
        there.files.unlink(name)
    result = there.fsck(repair=True)
    assert [(finding.kind, finding.repaired) for finding in result.findings] == [("no-metadata", False)]
    assert there.files.names() == []


def test_no_metadata_and_no_memory_is_an_instance_that_never_began() -> None:
    there = Stopped()
    for name in there.files.names():
        there.files.unlink(name)
    there.region.sizes.clear()
    assert there.fsck().clean


def test_every_flipped_byte_is_found_and_repairing_never_loses_memory() -> None:
    """The promise of --repair over all single-byte damage: what has memory has a name afterwards."""
    whole = grown()
    late: Ino = whole.late  # type: ignore[attr-defined]
    contents = {name: whole.files.read(name) for name in whole.files.names()}
    repaired = refused = 0
    for name, content in contents.items():
        for at in range(0, len(content), 3):
            there = grown()
            for each, data in contents.items():
                there.files.put(each, data)
            flip(there.files, name, at)
            result = there.fsck(repair=True)
            assert not result.clean, (name, at)
            if result.unrepaired:
                refused += 1
                continue
            repaired += 1
            state = there.stored()
            for ino, blocks in ((there.f, 2), (there.g, 1), (late, 3)):
                assert there.region.memory[ino] == blocks * BLOCK, (name, at)
                assert state.inodes[ino].size_bytes == blocks * BLOCK, (name, at)
                assert state.inodes[ino].nlink, (name, at)
    assert repaired > 100
    assert refused > 10


def needing_repair(*, damaged: bool) -> Stopped:
    there = grown()
    there.region.plant(70, BLOCK, BLOCK)
    if damaged:
        flip(there.files, segments(there)[1], 70)
    there.files.steps = 0
    return there


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("when", When)
def test_killed_at_any_step_of_a_repair_another_run_finishes_it(when: When, damaged: bool) -> None:
    undisturbed = needing_repair(damaged=damaged)
    undisturbed.fsck(repair=True)
    assert undisturbed.files.steps > 5
    crashes = 0
    for number in range(1, undisturbed.files.steps + 1):
        there = needing_repair(damaged=damaged)
        late: Ino = there.late  # type: ignore[attr-defined]
        there.files.fault = crash_at(number, when)
        with suppress(Crash):
            there.fsck(repair=True)
        crashes += there.files.dead
        there.files = there.files.reborn()
        assert there.fsck(repair=True).unrepaired == (), number
        state = there.stored()
        assert lookup(state, b"lost+found", b"#70") == 70
        assert state.inodes[late].size_bytes == 3 * BLOCK
        assert lookup(state, b"d", b"f") == there.f
    assert crashes


def test_the_longest_beginning_ends_before_a_transaction_that_does_not_fit() -> None:
    """Checksums are right, but no program of ours would have written it: half of it must not stay applied."""
    from guestmemfs_fuse.core import records as rec
    from guestmemfs_fuse.core.records import Transaction

    there = Stopped()
    good = there.store.sequence
    misfit = Transaction((rec.Resized(there.f, 123, 0, 1), rec.Unlinked(ROOT_INO, b"not there", 1)))
    there.store.append(misfit)
    with pytest.raises(MetadataError):
        store.read_only_view(there.files, REGION)
    saved = fsck_metadata.save(there.files, REGION)
    assert saved is not None
    assert saved.sequence == good
    assert saved.state.inodes[there.f].size_bytes == 2 * BLOCK
