"""The snapshot: a whole State in one file, replaced atomically.

A snapshot is a file `snapshot-<sequence of the last transaction in it, 16 hex digits>.gms`: the items of
core/image in frames of a few items each, then a trailer with their number and a checksum over all of them.
A snapshot without its trailer is not one.

Called by store (create, close), compact and the readers of both.
"""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, Final
from uuid import UUID
from zlib import crc32

import msgpack

from guestmemfs_fuse.core import image
from guestmemfs_fuse.core.errors import CorruptMetadataError, MetadataError
from guestmemfs_fuse.core.state import State
from guestmemfs_fuse.metadata import atomic, codec
from guestmemfs_fuse.metadata.files import Files
from guestmemfs_fuse.metadata.framing import (
    Clean,
    FileHeader,
    FileKind,
    FrameReader,
    pack_frame,
    pack_header,
    seed_of,
    unpack_header,
)

_NAME: Final = re.compile(r"snapshot-([0-9a-f]{16})\.gms")
_ITEMS: Final = 0
_TRAILER: Final = 1
_ITEMS_PER_FRAME: Final = 8
"""Few: what is in a frame that is damaged is lost (salvage.py). The header has one of its own."""
_CHUNK_BYTES: Final = 256 << 10


def snapshot_name(last_sequence: int) -> str:
    """The file of the snapshot that contains everything up to that transaction."""
    return f"snapshot-{last_sequence:016x}.gms"


def last_sequence_of(name: str) -> int | None:
    """The sequence a snapshot's name says, or None for other files."""
    match = _NAME.fullmatch(name)
    return int(match[1], 16) if match else None


def snapshots(files: Files) -> list[int]:
    """The last sequences of all snapshots, ascending. Raises OSError."""
    return sorted(last for name in files.names() if (last := last_sequence_of(name)) is not None)


def write(files: Files, region_uuid: UUID, last_sequence: int, state: State) -> int:
    """Make the snapshot of `state`, which contains everything up to `last_sequence`; durable on return.

    Returns its size in bytes. Raises OSError, and then leaves what was there.
    """
    salt = int.from_bytes(os.urandom(8), "little")
    header = FileHeader(FileKind.SNAPSHOT, region_uuid, last_sequence, salt)
    name = snapshot_name(last_sequence)
    atomic.begin(files, name, _chunks(pack_snapshot(header, state))).close()
    files.sync()
    return files.size_bytes(name)


def pack_snapshot(header: FileHeader, state: State) -> Iterator[bytes]:
    """The bytes of a snapshot, in pieces."""
    packed = pack_header(header)
    yield packed
    seed, packer = seed_of(packed), msgpack.Packer()
    items = image.dump(state)
    count, number, checksum = 0, 1, 0
    while batch := list(islice(items, _ITEMS_PER_FRAME if count else 1)):
        payload = packer.pack((_ITEMS, batch))
        yield pack_frame(seed, number, payload)
        count, number, checksum = count + len(batch), number + 1, crc32(payload, checksum)
    yield pack_frame(seed, number, packer.pack((_TRAILER, count, checksum)))


def _chunks(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in fewer pieces."""
    pending = bytearray()
    for piece in pieces:
        pending += piece
        if len(pending) >= _CHUNK_BYTES:
            yield bytes(pending)
            pending.clear()
    yield bytes(pending)


def read(files: Files, region_uuid: UUID, last_sequence: int, *, lenient: bool = False) -> tuple[State, int]:
    """The State of a snapshot and the size of its file in bytes.

    lenient: see image.load. Raises MetadataError naming the file, or OSError.
    """
    name = snapshot_name(last_sequence)
    data = files.read(name)
    header = unpack_header(data, name, FileKind.SNAPSHOT, region_uuid)
    if header.base_sequence != last_sequence:
        raise CorruptMetadataError(f"{name} contains transactions up to {header.base_sequence}")
    try:
        with _without_collection():
            return image.load(_items(data, name), lenient=lenient), len(data)
    except MetadataError as error:
        message = error.message if name in error.message else f"{name}: {error.message}"
        raise type(error)(message, hint=error.hint) from error


def _items(data: bytes, name: str) -> Iterator[Any]:
    """The image's items; raises CorruptMetadataError when they are not all there."""
    reader = FrameReader(data, 1, name)
    count, checksum, trailer = 0, 0, None
    for _, payload in reader:
        if trailer is not None:
            raise CorruptMetadataError(f"{name} goes on behind its trailer")
        match codec.unpack(payload):
            case (0, tuple(items)):
                count, checksum = count + len(items), crc32(payload, checksum)
                yield from items
            case (1, int(total), int(sum_of_all)):
                trailer = (total, sum_of_all)
            case _:
                raise CorruptMetadataError(f"{name} holds a frame that is neither items nor trailer")
    if reader.ending != Clean() or trailer is None:
        raise CorruptMetadataError(f"{name} is cut short")
    if trailer != (count, checksum):
        raise CorruptMetadataError(f"{name} does not hold what its trailer says")


@contextmanager
def _without_collection() -> Iterator[None]:
    """No garbage collection while many objects are made and none becomes garbage: twice as fast."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
