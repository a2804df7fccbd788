"""Records and transactions as bytes (msgpack) and back.

Pure. A record is [TAG, field, ...] in the field order of core/records.py, which is therefore the format:
nothing here names a record type. A transaction is [origin, ino, [record, ...]].

A record with fewer fields than today's class was written before a field was appended; the class's default
stands in. An unknown tag, or more fields than the class has, was written by a newer program: refused.

Invariants: `decode` raises nothing but MetadataError whatever the bytes are; decode(encode(t)) == t.
Called by journal (append, replay) and the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from operator import attrgetter
from types import NoneType
from typing import Any, Final

import msgpack

from guestmemfs_fuse.core.errors import CorruptMetadataError, UnknownFormatError
from guestmemfs_fuse.core.records import RECORD_TYPES, Record, Transaction
from guestmemfs_fuse.core.types import BlockNumber, Extent, Ino, Unique
from guestmemfs_fuse.core.value import fields_of

_WIRE_TYPES: Final[dict[str, tuple[type, ...]]] = {
    "int": (int,),
    "Ino": (int,),
    "BackingId": (int,),
    "bool": (bool,),
    "bytes": (bytes,),
    "int | None": (int, NoneType),
    "tuple[Extent, ...]": (tuple,),
}
"""How the annotations of records.py stand on the wire. A new annotation needs a line here (import fails)."""

UNPACK_ERRORS: Final = (ValueError, TypeError, OverflowError, KeyError, msgpack.UnpackException)
"""What msgpack raises on bytes that are not msgpack."""


@dataclass(frozen=True, slots=True)
class _Layout:
    """How one record type is written: its class, the shapes (types per field) that are accepted."""

    record: Callable[..., Record]
    shapes: frozenset[tuple[type, ...]]
    most_fields: int
    extents_at: int | None


def _layout_of(record: type[Record]) -> _Layout:
    described = fields_of(record)
    annotations = [field.annotation for field in described]
    wire = [_WIRE_TYPES[annotation] for annotation in annotations]
    required = sum(not field.has_default for field in described)
    shapes = frozenset(shape for count in range(required, len(wire) + 1) for shape in product(*wire[:count]))
    extents = "tuple[Extent, ...]"
    at = annotations.index(extents) if extents in annotations else None
    return _Layout(record, shapes, len(wire), at)


def _fields_of(record: type[Record]) -> Callable[[Record], tuple[Any, ...]]:
    names = [field.name for field in fields_of(record)]
    if len(names) == 1:
        (name,) = names
        return lambda value: (getattr(value, name),)
    return attrgetter(*names)


_LAYOUTS: Final = {record.TAG: _layout_of(record) for record in RECORD_TYPES}
_FIELDS: Final = {record: (record.TAG, _fields_of(record)) for record in RECORD_TYPES}


def _plain(value: object) -> list[int]:
    """msgpack asks for what it does not know: an extent is two numbers."""
    if isinstance(value, Extent):
        return [value.start, value.count]
    raise TypeError(f"{type(value).__name__} has no place in a record")


_PACKER: Final = msgpack.Packer(default=_plain)


def encode(transaction: Transaction) -> bytes:
    """The payload of one journal frame."""
    packed: bytes = _PACKER.pack(
        (transaction.origin, transaction.ino, [_wire(record) for record in transaction.records])
    )
    return packed


def _wire(record: Record) -> tuple[Any, ...]:
    tag, values = _FIELDS[type(record)]
    return (tag, *values(record))


def decode(payload: bytes | memoryview) -> Transaction:
    """The transaction in one journal frame.

    Raises CorruptMetadataError, or UnknownFormatError for what a newer program wrote; the messages do not
    name the file, the caller adds it.
    """
    parts = unpack(payload)
    if type(parts) is not tuple or len(parts) != 3:
        raise CorruptMetadataError("not a transaction")
    origin, ino, records = parts
    if type(origin) is not int or type(ino) is not int or origin < 0 or ino < 0 or type(records) is not tuple:
        raise CorruptMetadataError("not a transaction")
    return Transaction(tuple(_records(records)), Unique(origin), Ino(ino))


def unpack(payload: bytes | memoryview) -> Any:
    """One msgpack value, arrays as tuples. Raises CorruptMetadataError for anything else."""
    try:
        return msgpack.unpackb(payload, use_list=False)
    except UNPACK_ERRORS as error:
        raise CorruptMetadataError(f"not msgpack ({error})") from error


def _records(items: Iterable[Any]) -> Iterator[Record]:
    for item in items:
        if type(item) is not tuple or not item or type(item[0]) is not int:
            raise CorruptMetadataError("not a record")
        layout = _LAYOUTS.get(item[0])
        if layout is None:
            raise UnknownFormatError(f"unknown record tag {item[0]}")
        values = item[1:]
        if len(values) > layout.most_fields:
            raise UnknownFormatError(f"a record with tag {item[0]} has {len(values)} fields")
        if tuple(map(type, values)) not in layout.shapes:
            raise CorruptMetadataError(f"a record with tag {item[0]} has fields of wrong types")
        at = layout.extents_at
        if at is not None:
            values = (*values[:at], _extents(values[at]), *values[at + 1 :])
        yield layout.record(*values)


def _extents(items: Iterable[Any]) -> tuple[Extent, ...]:
    extents = []
    for item in items:
        if type(item) is not tuple or tuple(map(type, item)) != (int, int) or item[0] < 0 or item[1] <= 0:
            raise CorruptMetadataError("not an extent")
        extents.append(Extent(BlockNumber(item[0]), item[1]))
    return tuple(extents)
