"""One segment: append, failures that are taken back, going on behind a torn tail."""

from __future__ import annotations

import errno

import pytest

from guestmemfs_fuse.core.errors import (
    CorruptMetadataError,
    MetadataFullError,
    MetadataWriteError,
    ReadOnlyInstanceError,
)
from guestmemfs_fuse.core.records import PinSet, Transaction
from guestmemfs_fuse.core.types import Ino
from guestmemfs_fuse.metadata import journal
from guestmemfs_fuse.metadata.framing import HEADER_BYTES, Clean, TornTail
from guestmemfs_fuse.metadata.journal import Segment, SegmentReader
from tests.unit.metadata.memory_files import Fault, MemoryFiles, When, fail_at
from tests.unit.metadata.workload import REGION

NAME = "journal-0000000000000005.gmj"
ANY = range(1, 1000)


def transaction(number: int) -> Transaction:
    return Transaction((PinSet(Ino(number), True),))


def stored(files: MemoryFiles) -> list[tuple[int, Transaction]]:
    return list(SegmentReader(files, 5, REGION).transactions())


def begun(fault: Fault | None = None) -> tuple[MemoryFiles, Segment]:
    """A segment with one transaction; faults begin behind it."""
    files = MemoryFiles()
    segment = Segment.begin(files, REGION, 5)
    segment.append(transaction(5), sync=False)
    if fault is not None:
        files.fault = fault
    return files, segment


def test_names_say_the_first_sequence() -> None:
    assert journal.segment_name(5) == NAME
    assert journal.first_sequence_of(NAME) == 5
    for other in ("journal-5.gmj", NAME + ".1.tmp", "snapshot-0000000000000005.gms", NAME.upper()):
        assert journal.first_sequence_of(other) is None


def test_what_was_appended_is_read_back_in_order() -> None:
    files, segment = begun()
    assert [segment.append(transaction(number), sync=False) for number in (6, 7)] == [6, 7]
    assert stored(files) == [(number, transaction(number)) for number in (5, 6, 7)]
    assert segment.length_bytes == files.size_bytes(NAME)


def test_an_append_is_one_write_and_syncs_only_when_asked() -> None:
    calls: list[str] = []
    _, segment = begun(lambda step, when: calls.append(step.call) if when is When.BEFORE else None)
    segment.append(transaction(6), sync=False)
    assert calls == ["write"]
    segment.append(transaction(7), sync=True)
    assert calls == ["write", "write", "sync"]


@pytest.mark.parametrize(
    ("code", "error"),
    [
        (errno.ENOSPC, MetadataFullError),
        (errno.EDQUOT, MetadataFullError),
        (errno.EIO, MetadataWriteError),
        (errno.EROFS, MetadataWriteError),
    ],
)
@pytest.mark.parametrize("when", When)
def test_a_write_that_fails_leaves_nothing_and_the_next_one_works(
    code: int, error: type[Exception], when: When
) -> None:
    files, segment = begun(fail_at(ANY, when, code, "write"))
    with pytest.raises(error):
        segment.append(transaction(6), sync=False)
    assert stored(files) == [(5, transaction(5))]
    assert files.size_bytes(NAME) == segment.length_bytes
    files.fault = lambda step, at: None
    assert segment.append(transaction(7), sync=False) == 6
    assert stored(files) == [(5, transaction(5)), (6, transaction(7))]


def test_a_short_write_is_no_room_and_is_taken_back() -> None:
    """MemoryFile.write takes EINTR in the middle for a write that stops there without an error."""
    files, segment = begun(fail_at(ANY, When.HALFWAY, errno.EINTR, "write"))
    with pytest.raises(MetadataFullError):
        segment.append(transaction(6), sync=False)
    assert stored(files) == [(5, transaction(5))]
    assert files.size_bytes(NAME) == segment.length_bytes


def test_a_sync_that_fails_takes_the_frame_back() -> None:
    files, segment = begun(fail_at(ANY, When.BEFORE, errno.EIO, "sync"))
    with pytest.raises(MetadataWriteError):
        segment.append(transaction(6), sync=True)
    assert stored(files) == [(5, transaction(5))]


def test_a_write_that_cannot_be_taken_back_breaks_the_segment() -> None:
    files, segment = begun(fail_at(ANY, When.HALFWAY, errno.ENOSPC, "write"))
    whole = files.fault

    def fault(step: object, when: When) -> None:
        whole(step, when)  # type: ignore[arg-type]
        fail_at(ANY, When.BEFORE, errno.EIO, "truncate")(step, when)  # type: ignore[arg-type]

    files.fault = fault
    with pytest.raises(MetadataFullError):
        segment.append(transaction(6), sync=False)
    files.fault = lambda step, at: None
    for _ in range(2):
        with pytest.raises(ReadOnlyInstanceError, match="could not be cut back"):
            segment.append(transaction(6), sync=False)
    assert stored(files) == [(5, transaction(5))]


def test_a_sync_of_its_own_that_fails_breaks_the_segment() -> None:
    _, segment = begun(fail_at(ANY, When.BEFORE, errno.EIO, "sync"))
    with pytest.raises(ReadOnlyInstanceError, match="could not be synced"):
        segment.sync()
    with pytest.raises(ReadOnlyInstanceError):
        segment.append(transaction(6), sync=False)


def test_a_torn_tail_is_cut_when_writing_goes_on() -> None:
    files, segment = begun()
    good = files.read(NAME)
    segment.append(transaction(6), sync=False)
    files.put(NAME, files.read(NAME)[:-1])
    reader = SegmentReader(files, 5, REGION)
    assert [sequence for sequence, _ in reader.transactions()] == [5]
    assert isinstance(reader.frames.ending, TornTail)
    resumed = Segment.resume(files, 5, 6, reader.frames.end)
    assert files.read(NAME) == good
    assert resumed.append(transaction(7), sync=False) == 6
    assert stored(files) == [(5, transaction(5)), (6, transaction(7))]


def test_an_empty_segment_is_a_header() -> None:
    files = MemoryFiles()
    Segment.begin(files, REGION, 5)
    reader = SegmentReader(files, 5, REGION)
    assert list(reader.transactions()) == []
    assert reader.frames.ending == Clean()
    assert files.size_bytes(NAME) == HEADER_BYTES


def test_a_segment_under_another_name_is_refused() -> None:
    files, _ = begun()
    files.put(journal.segment_name(6), files.read(NAME))
    with pytest.raises(CorruptMetadataError, match="begins with transaction 5"):
        SegmentReader(files, 6, REGION)


def test_a_frame_that_is_no_transaction_names_file_and_sequence() -> None:
    files, segment = begun()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(journal.codec, "encode", lambda transaction: b"\xc1")
        segment.append(transaction(6), sync=False)
    with pytest.raises(CorruptMetadataError, match=f"{NAME}, transaction 6: not msgpack"):
        stored(files)


def test_a_transaction_written_anew_behind_our_back_is_noticed() -> None:
    files, segment = begun()
    segment.append(transaction(6), sync=False)
    reader = SegmentReader(files, 5, REGION)
    list(reader.transactions())
    seen = reader.frames.checksum
    assert list(SegmentReader(files, 5, REGION).transactions(after=6, checksum=seen)) == []
    with pytest.raises(CorruptMetadataError, match="another one now"):
        list(SegmentReader(files, 5, REGION).transactions(after=6, checksum=seen ^ 1))
