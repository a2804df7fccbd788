"""The journal: transactions in the order they were decided, one frame each, in segments.

A segment is a file `journal-<sequence of its first transaction, 16 hex digits>.gmj`. Only the newest is
written. One append is one write(2) of one frame, so a SIGKILL leaves a whole frame or a torn tail. What
could not be written whole is cut back before the caller gets its error: memory and disk agree, and the
next append finds a clean end.

Called by store and compact.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Final
from uuid import UUID

from guestmemfs_fuse.core.errors import (
    CorruptMetadataError,
    MetadataError,
    MetadataFullError,
    ReadOnlyInstanceError,
)
from guestmemfs_fuse.core.records import Transaction
from guestmemfs_fuse.metadata import atomic, codec
from guestmemfs_fuse.metadata.files import AppendFile, Files
from guestmemfs_fuse.metadata.framing import (
    HEADER_BYTES,
    FileHeader,
    FileKind,
    FrameReader,
    pack_frame,
    pack_header,
    seed_of,
    unpack_header,
)

_NAME: Final = re.compile(r"journal-([0-9a-f]{16})\.gmj")


def segment_name(first_sequence: int) -> str:
    """The file of the segment that begins with that transaction."""
    return f"journal-{first_sequence:016x}.gmj"


def first_sequence_of(name: str) -> int | None:
    """The sequence a segment's name says, or None for other files."""
    match = _NAME.fullmatch(name)
    return int(match[1], 16) if match else None


def segments(files: Files) -> list[int]:
    """The first sequences of all segments, ascending. Raises OSError."""
    return sorted(first for name in files.names() if (first := first_sequence_of(name)) is not None)


class SegmentReader:
    """The transactions of one segment, in order; `frames` says afterwards how the file ended.

    Raises MetadataError with the file's name in it.
    """

    __slots__ = ("frames", "name", "size_bytes")

    def __init__(self, files: Files, first_sequence: int, region_uuid: UUID) -> None:
        self.name = segment_name(first_sequence)
        data = files.read(self.name)
        self.size_bytes = len(data)
        header = unpack_header(data, self.name, FileKind.JOURNAL, region_uuid)
        if header.base_sequence != first_sequence:
            raise CorruptMetadataError(f"{self.name} begins with transaction {header.base_sequence}")
        self.frames = FrameReader(data, first_sequence, self.name)

    def transactions(
        self, *, after: int = 0, checksum: int | None = None
    ) -> Iterator[tuple[int, Transaction]]:
        """Sequence and transaction of every frame with a sequence above `after`.

        checksum: what the frame of transaction `after` must have, if it stands here: a frame that was
        cut back and written anew, while we looked, has another.
        """
        for sequence, payload in self.frames:
            if sequence <= after:
                if sequence == after and checksum not in (None, self.frames.checksum):
                    raise CorruptMetadataError(f"{self.name}: transaction {sequence} is another one now")
                continue
            try:
                yield sequence, codec.decode(payload)
            except MetadataError as error:
                message = f"{self.name}, transaction {sequence}: {error.message}"
                raise type(error)(message, hint=error.hint) from error


class Segment:
    """The segment that is written: appends frames, cuts back what failed.

    `broken` says why the segment takes nothing more, or is None. `next_sequence` is what the next
    transaction gets; `length_bytes` the good length of the file.
    """

    __slots__ = ("_file", "_seed", "broken", "first_sequence", "length_bytes", "name", "next_sequence")

    def __init__(
        self, file: AppendFile, seed: int, first_sequence: int, next_sequence: int, length_bytes: int
    ) -> None:
        self._file = file
        self._seed = seed
        self.name = segment_name(first_sequence)
        self.first_sequence = first_sequence
        self.next_sequence = next_sequence
        self.length_bytes = length_bytes
        self.broken: str | None = None

    @classmethod
    def resume(cls, files: Files, first_sequence: int, next_sequence: int, length_bytes: int) -> Segment:
        """Go on with an existing segment behind its last good frame; what follows is cut. Raises OSError."""
        name = segment_name(first_sequence)
        seed = seed_of(files.read(name))
        file = files.open_append(name)
        try:
            if files.size_bytes(name) > length_bytes:
                file.truncate(length_bytes)
                file.sync()
        except OSError:
            file.close()
            raise
        return cls(file, seed, first_sequence, next_sequence, length_bytes)

    @classmethod
    def begin(cls, files: Files, region_uuid: UUID, first_sequence: int) -> Segment:
        """Make a new, empty segment; the caller syncs the directory. Raises OSError."""
        salt = int.from_bytes(os.urandom(8), "little")
        header = pack_header(FileHeader(FileKind.JOURNAL, region_uuid, first_sequence, salt))
        file = atomic.begin(files, segment_name(first_sequence), [header])
        return cls(file, seed_of(header), first_sequence, first_sequence, HEADER_BYTES)

    def append(self, transaction: Transaction, *, sync: bool, most_bytes: int | None = None) -> int:
        """Write one transaction and return its sequence.

        sync: also fdatasync; most_bytes: refuse a frame longer than this. Raises MetadataFullError or
        MetadataWriteError (nothing was written, what was is cut back), ReadOnlyInstanceError when the
        segment is broken.
        """
        if self.broken is not None:
            raise ReadOnlyInstanceError(self.broken)
        sequence = self.next_sequence
        frame = pack_frame(self._seed, sequence, codec.encode(transaction))
        if most_bytes is not None and len(frame) > most_bytes:
            raise MetadataFullError("the journal is being folded", hint="try again in a moment")
        try:
            if self._file.write(frame) != len(frame):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            if sync:
                self._file.sync()
        except OSError as error:
            self._cut_back()
            failed = atomic.fs_error(error, "write the journal")
            failed.in_doubt = self.broken is not None
            raise failed from error
        self.next_sequence = sequence + 1
        self.length_bytes += len(frame)
        return sequence

    def sync(self) -> None:
        """fdatasync what was appended without. Raises ReadOnlyInstanceError; the segment is broken then.

        The transactions are applied already and cannot be taken back, so nothing more may follow.
        """
        try:
            self._file.sync()
        except OSError as error:
            self.broken = f"the journal could not be synced ({error.strerror})"
            raise ReadOnlyInstanceError(self.broken) from error

    def close(self) -> None:
        """Give the descriptor back. Nothing is taken any more: its number may be another file's already."""
        self.broken = self.broken or "the journal is closed"
        with suppress(OSError):
            self._file.close()

    def _cut_back(self) -> None:
        try:
            self._file.truncate(self.length_bytes)
        except OSError as error:
            self.broken = (
                f"the journal holds a write that failed and could not be cut back ({error.strerror})"
            )
