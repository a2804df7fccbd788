"""What the store refuses, and that it never makes a fresh start over something."""

from __future__ import annotations

import errno

import pytest

from guestmemfs_fuse.core.errors import (
    CorruptMetadataError,
    ForeignMetadataError,
    MetadataFullError,
    MetadataWriteError,
    ReadOnlyInstanceError,
    UnknownFormatError,
    UsageError,
)
from guestmemfs_fuse.core.records import Reaped, Transaction
from guestmemfs_fuse.core.state import State
from guestmemfs_fuse.core.types import Ino
from guestmemfs_fuse.metadata import journal, snapshot, store
from guestmemfs_fuse.metadata.store import Store
from tests.unit.metadata.memory_files import MemoryFiles, When, fail_at
from tests.unit.metadata.stores import ANY, DONE, append, check, created, opened
from tests.unit.metadata.workload import OTHER_REGION

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
