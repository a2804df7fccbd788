"""The store: create, open, append, fold, close, and how often it waits for the disk."""

from __future__ import annotations

import errno

import pytest

from guestmemfs_fuse.core import evolve
from guestmemfs_fuse.core.errors import (
    MetadataFullError,
)
from guestmemfs_fuse.core.records import BackingOpened, Transaction, XattrSet
from guestmemfs_fuse.core.types import ROOT_INO, BackingId
from guestmemfs_fuse.metadata import compact, journal, snapshot, store
from guestmemfs_fuse.metadata.store import Durability, Store
from tests.unit.metadata.memory_files import MemoryFiles, When, fail_at
from tests.unit.metadata.stores import ANY, DONE, append, check, created, opened
from tests.unit.metadata.workload import REGION, fresh_state

# -- the normal life ---------------------------------------------------------------------------------


def test_a_new_store_is_a_snapshot_and_an_empty_segment() -> None:
    files = MemoryFiles()
    assert not store.exists(files)
    made = created(files)
    assert store.exists(files)
    assert files.names() == [journal.segment_name(1), snapshot.snapshot_name(0)]
    assert made.sequence == 0
    assert check(files, 0).report.remarks == ()


def test_what_was_appended_is_there_after_opening_again_and_again() -> None:
    files = MemoryFiles()
    append(created(files), 0, 10)
    first = opened(files)
    assert (first.report.frames_replayed, first.store.sequence) == (10, 10)
    append(first.store, 10, 20)
    assert check(files, 20).report.frames_replayed == 20


def test_opening_does_not_change_the_files() -> None:
    files = MemoryFiles()
    append(created(files), 0, 10)
    before = {name: files.read(name) for name in files.names()}
    opened(files)
    assert {name: files.read(name) for name in files.names()} == before


def test_folding_keeps_one_snapshot_and_the_segment_behind_it() -> None:
    files = MemoryFiles()
    made = created(files)
    append(made, 0, 30)
    made.rotate()
    append(made, 30, 40)
    made.compact_sealed()
    assert files.names() == [journal.segment_name(31), snapshot.snapshot_name(30)]
    append(made, 40, 50)
    again = check(files, 50)
    assert again.report.snapshot == snapshot.snapshot_name(30)
    assert again.report.frames_replayed == 20


def test_a_rotated_store_that_was_never_folded_is_read_through_all_segments() -> None:
    files = MemoryFiles()
    made = created(files)
    for start in range(0, 50, 10):
        append(made, start, start + 10)
        made.rotate()
    assert len(journal.segments(files)) == 6
    assert check(files, 50).store.statistics().segments == 6


def test_rotating_an_empty_segment_does_nothing() -> None:
    files = MemoryFiles()
    made = created(files)
    made.rotate()
    append(made, 0, 1)
    made.rotate()
    made.rotate()
    assert journal.segments(files) == [1, 2]


def test_folding_without_sealed_segments_does_nothing() -> None:
    files = MemoryFiles()
    append(created(files), 0, 3)
    before = files.names()
    assert compact.compact_sealed(files, REGION) is None
    assert files.names() == before


def test_folding_goes_by_bytes_and_waits_for_as_many_more_after_a_try(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(store, "COMPACT_MIN_BYTES", 600)
    files = MemoryFiles()
    made = created(files)
    assert not made.compaction_due
    at = 0
    while not made.compaction_due:
        append(made, at, at + 1)
        at += 1
    assert made.journal_bytes >= 600
    made.rotate()
    assert not made.compaction_due
    append(made, at, at + 1)
    made.compact_sealed()
    assert made.journal_bytes == files.size_bytes(journal.segment_name(at + 1))
    assert not made.compaction_due


def test_a_large_snapshot_allows_a_longer_journal() -> None:
    """Folding costs as much as the state is large, so it happens less often: constant work per change."""
    files = MemoryFiles()
    made = created(files)
    made._snapshot_bytes = 100 << 20
    made.rotate()
    assert made._due_at_bytes >= (100 << 20) // store.COMPACT_SHARE


def test_large_attributes_in_a_loop_leave_room_for_everybody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "PRESSED_BYTES", 20_000)
    files = MemoryFiles()
    made = created(files)
    made.append(DONE[0])
    large = Transaction((XattrSet(ROOT_INO, b"user.a", bytes(5000), 5),))
    refused_at = next(number for number in range(20) if not _accepted(made, large))
    assert 3 <= refused_at <= 5
    assert made.pressed
    assert made.compaction_due
    made.append(Transaction((XattrSet(ROOT_INO, b"user.b", bytes(500), 5),)))
    made.rotate()
    assert not _accepted(made, large)
    made.compact_sealed()
    assert not made.pressed
    assert _accepted(made, large)
    assert opened(files).state.root.xattrs is not None


def _accepted(made: Store, transaction: Transaction) -> bool:
    try:
        made.append(transaction)
    except MetadataFullError:
        return False
    return True


def test_no_room_makes_folding_due() -> None:
    files = MemoryFiles()
    made = created(files)
    append(made, 0, 3)
    assert not made.compaction_due
    files.fault = fail_at(ANY, When.BEFORE, errno.ENOSPC, "write")
    with pytest.raises(MetadataFullError):
        made.append(DONE[3])
    assert made.compaction_due


def test_closing_with_the_state_leaves_nothing_to_replay() -> None:
    files = MemoryFiles()
    made, state = created(files), fresh_state()
    append(made, 0, 30)
    for transaction in DONE[:30]:
        evolve.apply(state, transaction)
    made.close(state)
    again = check(files, 30)
    assert again.report.frames_replayed == 0
    assert files.names() == [journal.segment_name(31), snapshot.snapshot_name(30)]
    append(again.store, 30, 31)


def test_closing_a_large_state_or_without_one_leaves_the_journal(monkeypatch: pytest.MonkeyPatch) -> None:
    files = MemoryFiles()
    made = created(files)
    append(made, 0, 5)
    before = files.names()
    made.close()
    assert files.names() == before
    monkeypatch.setattr(store, "CHEAP_INODES", 0)
    opened(files).store.close(fresh_state())
    assert files.names() == before
    check(files, 5)


def test_closing_twice_unchanged_writes_nothing() -> None:
    files = MemoryFiles()
    made = created(files)
    steps = files.steps
    made.close(fresh_state())
    assert files.steps == steps


def test_statistics_count() -> None:
    files = MemoryFiles()
    made = created(files)
    append(made, 0, 3)
    made.rotate()
    made.compact_sealed()
    figures = made.statistics()
    assert (figures.sequence, figures.appends, figures.segments, figures.compactions) == (3, 3, 1, 1)
    assert figures.append_ns_sum > 0
    assert figures.snapshot_bytes == files.size_bytes(snapshot.snapshot_name(3))
    assert figures.journal_bytes == files.size_bytes(journal.segment_name(4))
    assert (figures.append_failures, figures.read_only) == (0, None)


def test_origin_and_ino_of_transactions_come_back() -> None:
    assert any(transaction.origin for transaction in DONE)
    files = MemoryFiles()
    append(created(files), 0, 60)
    assert check(files, 60).state.recent


# -- how often the disk is waited for ------------------------------------------------------------------


@pytest.mark.parametrize(("durability", "expected"), [(Durability.KILL, 0), (Durability.POWER, 10)])
def test_only_what_outlives_the_kernel_waits_for_the_disk(durability: Durability, expected: int) -> None:
    files = MemoryFiles()
    made = created(files, durability)
    syncs: list[object] = []

    def count(step: object, when: When) -> None:
        if when is When.AFTER and step.call == "sync":  # type: ignore[attr-defined]
            syncs.append(step)

    files.fault = count
    for number in range(10):
        made.append(DONE[number])
        made.append(Transaction((BackingOpened(ROOT_INO, BackingId(number + 1)),)))
    assert len(syncs) == expected


@pytest.mark.parametrize("kept", [True, False])
def test_a_segment_that_was_not_synced_to_its_end_is_before_another_one_follows(kept: bool) -> None:
    files = MemoryFiles()
    made = created(files, Durability.POWER)
    append(made, 0, 5)
    made.append(Transaction((BackingOpened(ROOT_INO, BackingId(1)),)))
    made.rotate()
    survivor = files.after_power_cut(lambda: kept)
    assert Store.open(survivor, REGION).store.sequence == 6
