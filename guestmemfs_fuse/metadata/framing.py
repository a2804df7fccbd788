"""The bytes of metadata files: a header, then frames that are each checksummed and numbered.

Pure: bytes in, values out. Owns the layout (docs/format.md) and one decision: when is a bad end of a
file a torn write, and when is it damage? A write that a SIGKILL or a power cut interrupted leaves the
last frame incomplete and nothing behind it. So: a bad frame with no valid frame behind it is a torn
tail, which may be cut; a bad frame with a valid one behind it is damage, and refused.

Every checksum starts from the header's checksum, and the header holds a random salt. So a frame of
another file is not valid here, and no user can put bytes into a file name or attribute that would look
like a frame to the search behind a torn one.

Invariants: sequence numbers in a file are consecutive; the parser raises nothing but MetadataError.
Called by journal, snapshot and the tests.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final
from uuid import UUID
from zlib import crc32

from guestmemfs_fuse.core.errors import CorruptMetadataError, ForeignMetadataError, UnknownFormatError

MAGIC: Final = b"GUESTMEM"
FORMAT_VERSION: Final = 1

_HEADER: Final = struct.Struct("<8sII16sQQ")
_CHECKSUM: Final = struct.Struct("<I")
_FRAME: Final = struct.Struct("<IIQ")
_LENGTH_AND_CHECKSUM: Final = struct.Struct("<II")
_SEQUENCE: Final = struct.Struct("<Q")
_VERSION_END: Final = 12
"""Magic and version stand in these first bytes in every format version."""

HEADER_BYTES: Final = _HEADER.size + _CHECKSUM.size
FRAME_HEADER_BYTES: Final = _FRAME.size
PAYLOAD_MAX_BYTES: Final = 1 << 30

_SEARCH_FACTOR: Final = 64
_SEARCH_FLOOR_BYTES: Final = 1 << 30
"""Bytes that are checksummed at most in search of a valid frame behind a bad one: enough for a torn frame
full of a user's bytes (64 KiB, plausible at every place), about a second at worst."""


class FileKind(IntEnum):
    """What a metadata file holds."""

    JOURNAL = 1
    SNAPSHOT = 2


@dataclass(frozen=True, slots=True)
class FileHeader:
    """What stands at the start of a metadata file.

    base_sequence: of a journal segment the sequence of its first transaction, of a snapshot that of the
    last transaction it contains; salt: random, see the module.
    """

    kind: FileKind
    region_uuid: UUID
    base_sequence: int
    salt: int


@dataclass(frozen=True, slots=True)
class Clean:
    """The bytes ended with a whole frame."""


@dataclass(frozen=True, slots=True)
class TornTail:
    """From byte `at` on nothing is valid: a write that was cut short. `reason` is a sentence."""

    at: int
    reason: str


Ending = Clean | TornTail


def pack_header(header: FileHeader) -> bytes:
    """The first HEADER_BYTES of a file."""
    packed = _HEADER.pack(
        MAGIC, FORMAT_VERSION, header.kind, header.region_uuid.bytes, header.base_sequence, header.salt
    )
    return packed + _CHECKSUM.pack(crc32(packed))


def seed_of(header: bytes) -> int:
    """What the checksums of the frames behind `header` (its packed bytes) start from.

    The header without its checksum: a CRC over bytes and their own CRC is the same for all bytes.
    """
    return crc32(header[: _HEADER.size])


def unpack_header(data: bytes, name: str, kind: FileKind, region_uuid: UUID) -> FileHeader:
    """Read and check the start of the file `name`.

    Raises CorruptMetadataError, UnknownFormatError (another version) or ForeignMetadataError.
    """
    if len(data) < HEADER_BYTES or data[: len(MAGIC)] != MAGIC:
        raise CorruptMetadataError(f"{name} does not begin like a metadata file")
    version = int.from_bytes(data[len(MAGIC) : _VERSION_END], "little")
    if version != FORMAT_VERSION:
        raise UnknownFormatError(
            f"{name} has format version {version}, this program reads {FORMAT_VERSION}",
            hint="use the version of guestmemfs-fuse that wrote it",
        )
    (checksum,) = _CHECKSUM.unpack_from(data, _HEADER.size)
    if crc32(data[: _HEADER.size]) != checksum:
        raise CorruptMetadataError(f"the header of {name} has a wrong checksum")
    _, _, found_kind, uuid_bytes, base_sequence, salt = _HEADER.unpack_from(data)
    if found_kind != kind:
        raise CorruptMetadataError(f"{name} is not a {kind.name.lower()} file")
    found_uuid = UUID(bytes=uuid_bytes)
    if found_uuid != region_uuid:
        raise ForeignMetadataError(
            f"{name} belongs to region {found_uuid}, not to {region_uuid}",
            hint="it was copied here from another instance",
        )
    return FileHeader(kind, found_uuid, base_sequence, salt)


def pack_frame(seed: int, sequence: int, payload: bytes) -> bytes:
    """One frame; `payload` must not be empty."""
    body = _SEQUENCE.pack(sequence) + payload
    return _LENGTH_AND_CHECKSUM.pack(len(payload), crc32(body, seed)) + body


class FrameReader:
    """Iterates over the frames behind a file's header: (sequence, payload).

    data: the whole file; first_sequence: what the first frame must be numbered; name: for messages.
    `ending` says afterwards how the file ended; `at` and `end` where its last good frame began and ended,
    `next_sequence` what would follow it and `checksum` its checksum (both 0 before the first).
    Raises CorruptMetadataError (damage, or a frame out of order), never another exception.
    """

    __slots__ = ("_data", "_name", "_seed", "at", "checksum", "end", "ending", "next_sequence")

    def __init__(self, data: bytes, first_sequence: int, name: str) -> None:
        self._data = memoryview(data)
        self._seed = seed_of(data)
        self._name = name
        self.next_sequence = first_sequence
        self.at = self.checksum = 0
        self.end = HEADER_BYTES
        self.ending: Ending | None = None

    def go_on_behind(self, at: int, sequence: int, checksum: int) -> None:
        """Begin behind the frame that was read at byte `at` before; at the start, if it is not there now."""
        if _defect(self._data, at, self._seed) is not None:
            return
        length, found_checksum, found_sequence = _FRAME.unpack_from(self._data, at)
        if (found_sequence, found_checksum) == (sequence, checksum):
            self.at, self.end = at, at + FRAME_HEADER_BYTES + length
            self.next_sequence, self.checksum = sequence + 1, checksum

    def __iter__(self) -> Iterator[tuple[int, memoryview]]:
        data, seed, name = self._data, self._seed, self._name
        expected, at, total = self.next_sequence, self.end, len(self._data)
        while at < total:
            reason = _defect(data, at, seed)
            if reason is not None:
                self.ending = self._torn(at, expected, reason)
                return
            length, checksum, sequence = _FRAME.unpack_from(data, at)
            if sequence != expected:
                raise CorruptMetadataError(
                    f"{name} has transaction {sequence} at byte {at} where {expected} belongs"
                )
            payload = data[at + FRAME_HEADER_BYTES :][:length]
            expected += 1
            self.at, self.next_sequence, self.checksum = at, expected, checksum
            self.end = at = at + FRAME_HEADER_BYTES + length
            yield sequence, payload
        self.ending = Clean()

    def _torn(self, at: int, expected: int, reason: str) -> TornTail:
        """Nothing valid follows; otherwise it is damage."""
        later = _search(self._data, at + 1, self._seed, expected)
        if later is not None:
            raise CorruptMetadataError(
                f"{self._name} is damaged at byte {at} ({reason}); valid records follow at byte {later}",
                hint="guestmemfs fsck says what can be saved",
            )
        return TornTail(at, reason)


def _defect(data: memoryview, at: int, seed: int) -> str | None:
    """Why there is no valid frame at `at`, or None."""
    if at + FRAME_HEADER_BYTES > len(data):
        return "the frame's header is cut short"
    length, checksum, _ = _FRAME.unpack_from(data, at)
    end = at + FRAME_HEADER_BYTES + length
    if not 0 < length <= PAYLOAD_MAX_BYTES:
        return f"{length} cannot be a frame's length"
    if end > len(data):
        return "the frame is cut short"
    if crc32(data[at + _LENGTH_AND_CHECKSUM.size : end], seed) != checksum:
        return "wrong checksum"
    return None


def healthy_frames(data: bytes, first_sequence: int) -> Iterator[tuple[int, memoryview]]:
    """Every whole frame of a damaged file, wherever it stands: (sequence, payload). Never raises.

    first_sequence: what the first frame should have. The header's own checksum is where those of the frames
    start, so it stands in for a header that is damaged elsewhere. Bounded work, as for a torn tail: in bytes
    made to look like frames the search ends early.
    """
    if len(data) < HEADER_BYTES:
        return
    (stored,) = _CHECKSUM.unpack_from(data, _HEADER.size)
    found = [list(_frames_from(data, seed, first_sequence)) for seed in {seed_of(data), stored}]
    yield from max(found, key=len)


def _frames_from(data: bytes, seed: int, first_sequence: int) -> Iterator[tuple[int, memoryview]]:
    view, at, total = memoryview(data), HEADER_BYTES, len(data)
    highest = first_sequence + total // FRAME_HEADER_BYTES
    budget = max(_SEARCH_FLOOR_BYTES, _SEARCH_FACTOR * total)
    while at + FRAME_HEADER_BYTES < total and budget > 0:
        length, _, sequence = _FRAME.unpack_from(view, at)
        end = at + FRAME_HEADER_BYTES + length
        if not (0 < length <= total - at - FRAME_HEADER_BYTES and first_sequence <= sequence <= highest):
            at += 1
        elif _defect(view, at, seed) is None:
            yield sequence, view[at + FRAME_HEADER_BYTES : end]
            at = end
        else:
            budget -= length
            at += 1


def _search(data: memoryview, start: int, seed: int, expected: int) -> int | None:
    """Where a valid frame begins at or behind `start`, if any does.

    Looks only at plausible sequence numbers: checksumming at every byte would take quadratic time. The
    work is bounded all the same, for bytes made to be plausible; over the bound counts as found.
    """
    highest = expected + len(data) // FRAME_HEADER_BYTES
    budget = max(_SEARCH_FLOOR_BYTES, _SEARCH_FACTOR * len(data))
    for at in range(start, len(data) - FRAME_HEADER_BYTES):
        length, _, sequence = _FRAME.unpack_from(data, at)
        if not 0 < length <= len(data) - at - FRAME_HEADER_BYTES or not 0 < sequence <= highest:
            continue
        if _defect(data, at, seed) is None:
            return at
        budget -= length
        if budget < 0:
            return at
    return None
