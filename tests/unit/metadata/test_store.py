"""The store: create, open, append, fold, close, and what it refuses."""

from __future__ import annotations

import errno

import pytest

from guestmemfs_fuse.core import evolve
from guestmemfs_fuse.core.errors import (
    CorruptMetadataError,
    ForeignMetadataError,
    MetadataFullError,
    MetadataWriteError,
    ReadOnlyInstanceError,
    UnknownFormatError,
    UsageError,
)
from guestmemfs_fuse.core.records import BackingOpened, Reaped, Transaction, XattrSet
from guestmemfs_fuse.core.state import State
from guestmemfs_fuse.core.types import ROOT_INO, BackingId, Ino
from guestmemfs_fuse.metadata import chain, compact, journal, snapshot, store
from guestmemfs_fuse.metadata.store import Durability, Opened, Store
from tests.unit.metadata.memory_files import MemoryFiles, When, fail_at
from tests.unit.metadata.workload import OTHER_REGION, REGION, dump_of, fresh_state, history

DONE, DUMPS = history(11, 60)
ANY = range(1, 10_000)


def created(files: MemoryFiles, durability: Durability = Durability.KILL) -> Store:
    return Store.create(files, REGION, fresh_state(), durability=durability)


def append(to: Store, start: int, end: int) -> None:
    """Store the history's transactions start..end; transaction n gets sequence n + 1."""
    for number in range(start, end):
        assert to.append(DONE[number]) == number + 1


def opened(files: MemoryFiles) -> Opened:
    return Store.open(files, REGION)


def check(files: MemoryFiles, count: int) -> Opened:
    """What a new process finds is the history's first `count` transactions."""
    again = Store.open(files.reborn(), REGION)
    assert dump_of(again.state) == DUMPS[count]
    assert again.store.sequence == count
    return again


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


# -- reading without writing -------------------------------------------------------------------------


def test_a_view_changes_nothing_and_reports_a_torn_tail() -> None:
    files = MemoryFiles()
    append(created(files), 0, 10)
    name = journal.segment_name(1)
    files.put(name, files.read(name)[:-3])
    before = {name: files.read(name) for name in files.names()}
    steps = files.steps
    view = store.read_only_view(files, REGION)
    assert (files.steps, {name: files.read(name) for name in files.names()}) == (steps, before)
    assert dump_of(view.state) == DUMPS[9]
    assert view.report.torn_file == name
    assert view.report.torn_bytes > 0
    (remark,) = view.report.remarks
    assert name in remark


def test_opening_cuts_a_torn_tail_and_says_so_once() -> None:
    files = MemoryFiles()
    append(created(files), 0, 10)
    name = journal.segment_name(1)
    files.put(name, files.read(name) + b"rubbish")
    first = opened(files)
    assert (first.report.torn_bytes, first.report.torn_file) == (7, name)
    append(first.store, 10, 12)
    assert check(files, 12).report.remarks == ()


def test_a_view_read_while_the_store_is_written_catches_up() -> None:
    files = MemoryFiles()
    made = created(files)
    append(made, 0, 10)
    warm = store.read_only_view(files, REGION)
    append(made, 10, 20)
    made.rotate()
    append(made, 20, 30)
    again = Store.open(files, REGION, warm=warm)
    assert dump_of(again.state) == DUMPS[30]
    assert again.store.sequence == 30
    assert again.store.journal_bytes == made.journal_bytes
    append(again.store, 30, 31)
    check(files, 31)


def test_a_view_whose_segments_were_folded_meanwhile_is_read_anew() -> None:
    files = MemoryFiles()
    made = created(files)
    append(made, 0, 10)
    warm = store.read_only_view(files, REGION)
    append(made, 10, 20)
    made.rotate()
    made.compact_sealed()
    append(made, 20, 25)
    assert dump_of(Store.open(files, REGION, warm=warm).state) == DUMPS[25]


def test_a_transaction_that_was_taken_back_after_a_view_saw_it_is_not_kept() -> None:
    files = MemoryFiles()
    made = created(files, Durability.POWER)
    append(made, 0, 10)
    views = []

    def fault(step: object, when: When) -> None:
        if not views and step.call == "sync":  # type: ignore[attr-defined]
            views.append(store.read_only_view(files, REGION))
            raise OSError(errno.EIO, "Input/output error")

    files.fault = fault
    with pytest.raises(MetadataWriteError):
        made.append(DONE[12])
    assert views[0].sequence == 11
    append(made, 10, 15)
    assert dump_of(Store.open(files, REGION, warm=views[0]).state) == DUMPS[15]


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


# -- two processes -----------------------------------------------------------------------------------


class FoldingWhileRead(MemoryFiles):
    """Somebody folds between our listing and our reading, a few times."""

    times = 2

    def names(self) -> list[str]:
        listed = super().names()
        if self.times:
            self.times -= 1
            other = self.reborn()
            Store.open(other, REGION).store.rotate()
            compact.compact_sealed(other, REGION)
            self.names_now = other.names_now
        return listed


def test_files_that_disappear_while_being_read_are_looked_for_again() -> None:
    files = MemoryFiles()
    append(created(files), 0, 10)
    racing = FoldingWhileRead(names_now=files.names_now)
    assert dump_of(store.read_only_view(racing, REGION).state) == DUMPS[10]
    assert racing.times == 0


def test_an_older_compaction_that_ends_late_takes_nothing_away() -> None:
    files = MemoryFiles()
    made = created(files)
    append(made, 0, 10)
    made.rotate()
    slow = chain.read(files, REGION, sealed_only=True)
    append(made, 10, 20)
    made.rotate()
    made.compact_sealed()
    snapshot.write(files, REGION, slow.sequence, slow.state)
    compact.remove_superseded(files, slow.sequence)
    assert snapshot.snapshots(files) == [10, 20]
    again = check(files, 20)
    assert again.report.snapshot == snapshot.snapshot_name(20)
    opened(files)
    assert snapshot.snapshots(files) == [20]


def test_an_older_compaction_keeps_a_later_segment_of_one_transaction() -> None:
    files = MemoryFiles()
    made = created(files)
    append(made, 0, 10)
    made.rotate()
    slow = chain.read(files, REGION, sealed_only=True)
    append(made, 10, 11)
    made.rotate()
    snapshot.write(files, REGION, slow.sequence, slow.state)
    compact.remove_superseded(files, slow.sequence)
    assert journal.segments(files) == [11, 12]
    check(files, 11)


def test_what_an_interrupted_writer_left_is_removed_and_other_files_are_not() -> None:
    files = MemoryFiles()
    created(files)
    kept = files.names()
    for name in ("snapshot-0000000000000009.gms.77.tmp", "journal-000000000000000a.gmj.1.tmp"):
        files.put(name, b"half")
    files.put("instance.json.tmp", b"not ours")
    opened(files)
    assert files.names() == sorted([*kept, "instance.json.tmp"])


# -- refusals ----------------------------------------------------------------------------------------


def test_there_is_never_a_fresh_start_over_something() -> None:
    files = MemoryFiles()
    append(created(files), 0, 3)
    with pytest.raises(UsageError):
        created(files)
    files.unlink(snapshot.snapshot_name(0))
    assert store.exists(files)
    with pytest.raises(UsageError):
        created(files)
    with pytest.raises(CorruptMetadataError, match="no snapshot"):
        opened(files)


def test_an_empty_directory_is_not_an_instance() -> None:
    with pytest.raises(CorruptMetadataError, match="no snapshot"):
        opened(MemoryFiles())


def test_metadata_of_another_region_is_refused_and_left_alone() -> None:
    files = MemoryFiles()
    append(created(files), 0, 3)
    steps = files.steps
    with pytest.raises(ForeignMetadataError):
        Store.open(files, OTHER_REGION)
    assert files.steps == steps


@pytest.mark.parametrize("name", [journal.segment_name(1), snapshot.snapshot_name(0)])
def test_another_format_version_is_refused_by_name(name: str) -> None:
    files = MemoryFiles()
    append(created(files), 0, 3)
    data = bytearray(files.read(name))
    data[8] = 9
    files.put(name, bytes(data))
    with pytest.raises(UnknownFormatError, match=name):
        opened(files)


def test_a_transaction_that_does_not_fit_is_refused_by_sequence() -> None:
    files = MemoryFiles()
    made = created(files)
    made.append(DONE[0])
    made.append(Transaction((Reaped(Ino(12345)),)))
    with pytest.raises(CorruptMetadataError, match="transaction 2 does not fit"):
        opened(files)


def test_a_broken_store_says_why_and_is_never_due() -> None:
    files = MemoryFiles()
    made = created(files)
    append(made, 0, 3)
    files.fault = fail_at(ANY, When.BEFORE, errno.EIO)
    with pytest.raises(MetadataWriteError):
        made.append(DONE[3])
    assert made.read_only is not None
    assert not made.compaction_due
    for call in (lambda: made.append(DONE[3]), made.rotate):
        with pytest.raises(ReadOnlyInstanceError):
            call()
    assert made.statistics().append_failures == 2
    assert made.statistics().read_only == made.read_only
    made.close(State(1, 1))
    check(files, 3)


def test_a_directory_that_cannot_be_written_is_refused_when_opening() -> None:
    files = MemoryFiles()
    append(created(files), 0, 3)
    files.put(journal.segment_name(1), files.read(journal.segment_name(1))[:-1])
    files.fault = fail_at(ANY, When.BEFORE, errno.EROFS)
    with pytest.raises(MetadataWriteError, match="open the journal"):
        opened(files)


def test_a_full_directory_leaves_no_half_made_store() -> None:
    files = MemoryFiles(fault=fail_at(range(5, 6), When.BEFORE, errno.ENOSPC))
    with pytest.raises(MetadataFullError):
        created(files)
    assert not store.exists(files)
    assert files.names() == []
    created(files)
    check(files, 0)
