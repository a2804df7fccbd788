"""Damage to a metadata directory: refused by name, or survived and reported; never a silent loss."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from guestmemfs_fuse.core.errors import CorruptMetadataError, MetadataError
from guestmemfs_fuse.metadata import compact, journal, snapshot, store
from guestmemfs_fuse.metadata.store import Store
from tests.unit.metadata.memory_files import MemoryFiles
from tests.unit.metadata.workload import REGION, Dump, dump_of, fresh_state, history

DONE, DUMPS = history(31, 30)
LAST = len(DONE)


def directory() -> MemoryFiles:
    """Snapshot at 10, a sealed segment 11..20, the open one 21..30."""
    files = MemoryFiles()
    made = Store.create(files, REGION, fresh_state())
    for number, transaction in enumerate(DONE):
        if number in (10, 20):
            made.rotate()
        if number == 10:
            made.compact_sealed()
        made.append(transaction)
    assert files.names() == [journal.segment_name(11), journal.segment_name(21), snapshot.snapshot_name(10)]
    return files


def directory_with_old_chain() -> MemoryFiles:
    """As `directory`, but folding died before it removed what it had folded: two snapshots, 0 and 10."""
    files = directory()
    older = MemoryFiles()
    made = Store.create(older, REGION, fresh_state())
    for transaction in DONE[:10]:
        made.append(transaction)
    for name in older.names():
        files.put(name, older.read(name))
    return files


def copied(files: MemoryFiles) -> MemoryFiles:
    """The same files, to be damaged."""
    copy = MemoryFiles()
    for name in files.names():
        copy.put(name, files.read(name))
    return copy


def survives(files: MemoryFiles, what: str, *, torn_is_said: bool = True) -> int | None:
    """How many transactions are there, None when refused; fails when something was lost silently."""
    try:
        view = store.read_only_view(files, REGION)
    except MetadataError as refusal:
        assert "\n" not in refusal.message
        assert any(name in refusal.message for name in ("gmj", "gms", files.path)), refusal.message
        return None
    found: Dump = dump_of(view.state)
    assert found == DUMPS[view.sequence], what
    if view.sequence < LAST and torn_is_said:
        assert view.report.torn_file == journal.segment_name(21), what
        assert view.sequence >= 20, what
    opened = Store.open(files, REGION)
    assert dump_of(opened.state) == found, what
    assert opened.report.remarks == view.report.remarks
    return view.sequence


def test_undamaged_it_is_all_there() -> None:
    assert survives(directory(), "") == LAST
    assert survives(directory_with_old_chain(), "") == LAST


@pytest.mark.parametrize("make", [directory, directory_with_old_chain])
@pytest.mark.parametrize("bits", [0x01, 0xFF])
def test_every_flipped_byte_of_every_file(make: Callable[[], MemoryFiles], bits: int) -> None:
    whole = make()
    outcomes = set()
    for name in whole.names():
        for at in range(whole.size_bytes(name)):
            files = copied(whole)
            data = bytearray(files.read(name))
            data[at] ^= bits
            files.put(name, bytes(data))
            outcomes.add((name, survives(files, f"{name} byte {at}")))
    lost = {(name, count) for name, count in outcomes if count is not None and count < LAST}
    assert lost == {(journal.segment_name(21), LAST - 1)}


@pytest.mark.parametrize("make", [directory, directory_with_old_chain])
def test_every_truncation_of_every_file(make: Callable[[], MemoryFiles]) -> None:
    """Known limit: the newest segment cut exactly between two frames looks as if it ended there."""
    whole = make()
    unsaid = 0
    for name in whole.names():
        for length in range(whole.size_bytes(name)):
            files = copied(whole)
            files.put(name, files.read(name)[:length])
            try:
                survives(files, f"{name} cut to {length}")
            except AssertionError:
                assert name == journal.segment_name(21)
                assert survives(files, f"{name} cut to {length}", torn_is_said=False) is not None
                unsaid += 1
    assert unsaid == LAST - 20


@pytest.mark.parametrize("make", [directory, directory_with_old_chain])
def test_every_missing_file_is_refused_or_not_needed(make: Callable[[], MemoryFiles]) -> None:
    whole = make()
    needed = set(directory().names())
    for name in whole.names():
        files = copied(whole)
        files.unlink(name)
        if name == journal.segment_name(21):
            continue  # see the next test
        survived = survives(files, f"without {name}")
        replaceable = make is directory_with_old_chain and name == snapshot.snapshot_name(10)
        assert survived == (LAST if name not in needed or replaceable else None), name


def test_a_missing_newest_segment_cannot_be_told_from_one_that_was_never_made() -> None:
    """Known limit: what follows the last file of a chain leaves no trace in it (docs/format.md)."""
    files = directory()
    files.unlink(journal.segment_name(21))
    assert store.read_only_view(files, REGION).sequence == 20


def test_a_damaged_newer_snapshot_is_said_and_the_older_chain_used() -> None:
    files = directory_with_old_chain()
    name = snapshot.snapshot_name(10)
    files.put(name, files.read(name)[:-1])
    opened = Store.open(files, REGION)
    assert dump_of(opened.state) == DUMPS[LAST]
    assert opened.report.snapshot == snapshot.snapshot_name(0)
    (remark,) = opened.report.remarks
    assert name in remark
    assert snapshot.snapshot_name(0) in remark
    assert snapshot.snapshots(files) == [0]
    opened.store.rotate()
    opened.store.compact_sealed()
    assert dump_of(Store.open(files, REGION).state) == DUMPS[LAST]


def test_a_damaged_newer_snapshot_whose_journal_is_gone_is_refused_by_name() -> None:
    files = directory_with_old_chain()
    name = snapshot.snapshot_name(10)
    files.put(name, files.read(name)[:-1])
    files.unlink(journal.segment_name(1))
    with pytest.raises(CorruptMetadataError, match=name):
        Store.open(files, REGION)


def test_a_sealed_segment_with_rubbish_behind_it_is_refused() -> None:
    files = directory()
    name = journal.segment_name(11)
    files.put(name, files.read(name) + b"x")
    with pytest.raises(CorruptMetadataError, match=name):
        Store.open(files, REGION)


def test_files_that_changed_places_are_refused() -> None:
    files = directory()
    first, second = journal.segment_name(11), journal.segment_name(21)
    contents = files.read(first), files.read(second)
    files.put(first, contents[1])
    files.put(second, contents[0])
    with pytest.raises(CorruptMetadataError, match="begins with transaction"):
        Store.open(files, REGION)


def test_folding_refuses_damage_and_leaves_everything_as_it_was() -> None:
    files = directory()
    name = journal.segment_name(11)
    data = bytearray(files.read(name))
    data[70] ^= 1
    files.put(name, bytes(data))
    before = {name: files.read(name) for name in files.names()}
    with pytest.raises(CorruptMetadataError):
        compact.compact_sealed(files, REGION)
    assert {name: files.read(name) for name in files.names()} == before


def test_any_mixture_of_damage_is_survived_or_refused() -> None:
    whole, dice = directory_with_old_chain(), random.Random(7)
    for round_number in range(1500):
        files = copied(whole)
        for _ in range(dice.randrange(1, 4)):
            name = dice.choice(files.names())
            data = bytearray(files.read(name))
            at, length = dice.randrange(len(data) + 1), dice.randrange(1, 80)
            match dice.randrange(5):
                case 0:
                    data[at:at] = dice.randbytes(length)
                case 1:
                    del data[at : at + length]
                case 2:
                    data[at : at + length] = bytes(length)
                case 3:
                    start = dice.randrange(len(data) + 1)
                    data[at:at] = data[start : start + length]
                case _:
                    other = dice.choice(files.names())
                    files.put(other, bytes(data))
            files.put(name, bytes(data))
        try:
            view = store.read_only_view(files, REGION)
        except MetadataError:
            continue
        assert dump_of(view.state) == DUMPS[view.sequence], round_number
        assert view.sequence >= 20, round_number
