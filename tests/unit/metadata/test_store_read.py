"""A store that is read while it is written, and what other processes leave."""

from __future__ import annotations

import errno

import pytest

from guestmemfs_fuse.core.errors import (
    MetadataWriteError,
)
from guestmemfs_fuse.metadata import chain, compact, framing, journal, snapshot, store
from guestmemfs_fuse.metadata.store import Durability, Store
from tests.unit.metadata.memory_files import MemoryFiles, When
from tests.unit.metadata.stores import DONE, DUMPS, append, check, created, opened
from tests.unit.metadata.workload import REGION, dump_of

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


def test_what_a_view_has_read_is_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what callers wait for in a restart."""
    files = MemoryFiles()
    made = created(files)
    append(made, 0, 10)
    made.rotate()
    append(made, 10, 20)
    warm = store.read_only_view(files, REGION)
    append(made, 20, 22)
    looked_at: list[int] = []
    look = framing._defect

    def counted(data: memoryview, at: int, seed: int) -> str | None:
        looked_at.append(at)
        return look(data, at, seed)

    monkeypatch.setattr(framing, "_defect", counted)
    assert dump_of(Store.open(files, REGION, warm=warm).state) == DUMPS[22]
    assert len(looked_at) == 3  # the last one that was read, and two new ones


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
