"""Records and transactions as bytes: there and back, and never another error than MetadataError."""

from __future__ import annotations

import time
from dataclasses import fields
from typing import ClassVar

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guestmemfs_fuse.core import records as rec
from guestmemfs_fuse.core.errors import CorruptMetadataError, MetadataError, UnknownFormatError
from guestmemfs_fuse.core.types import Ino
from guestmemfs_fuse.core.value import value
from guestmemfs_fuse.metadata import codec
from tests.unit.metadata.workload import any_transaction

msgpack_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.binary()
    | st.text(),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.integers(0, 99), inner, max_size=3),
    max_leaves=20,
)


@settings(max_examples=500)
@given(any_transaction)
def test_a_transaction_comes_back(transaction: rec.Transaction) -> None:
    assert codec.decode(codec.encode(transaction)) == transaction


def test_every_record_type_has_a_tag_of_its_own_and_a_layout() -> None:
    tags = [record.TAG for record in rec.RECORD_TYPES]
    assert len(set(tags)) == len(tags)
    assert set(tags) == set(codec._LAYOUTS)
    assert set(rec.RECORD_TYPES) == set(codec._FIELDS)


def test_the_format_of_every_record_is_what_it_was() -> None:
    """Tags and field order are on disk: change this table only by appending fields that have defaults."""
    known = {
        "Made": (1, "parent name ino mode uid gid rdev target now_ns"),
        "Linked": (2, "parent name ino now_ns"),
        "Unlinked": (3, "parent name now_ns"),
        "Renamed": (4, "parent name new_parent new_name exchange now_ns"),
        "AttrsSet": (5, "ino mode uid gid atime_ns mtime_ns ctime_ns"),
        "Resized": (6, "ino size_bytes prealloc_bytes now_ns"),
        "Punched": (7, "ino offset_bytes length_bytes now_ns"),
        "XattrSet": (8, "ino name value now_ns"),
        "XattrRemoved": (9, "ino name now_ns"),
        "Reaped": (10, "ino"),
        "PinSet": (11, "ino pinned"),
        "MarkSet": (12, "ino mark"),
        "FrozenState": (13, "frozen"),
        "DaemonStarted": (14, "generation"),
        "SessionStarted": (15, "init_request device"),
        "BackingOpened": (16, "ino backing_id"),
        "BackingClosed": (17, "ino"),
        "ExtentsAdded": (18, "ino extents"),
        "ExtentsCut": (19, "ino blocks"),
        "Quarantined": (20, "extents"),
        "RegionResized": (21, "size_bytes"),
        "Repaired": (22, "ino nlink parent"),
        "SessionEnded": (23, "device"),
    }
    assert known == {
        record.__name__: (record.TAG, " ".join(field.name for field in fields(record)))
        for record in rec.RECORD_TYPES
    }


def test_a_field_appended_since_takes_its_default() -> None:
    payload = msgpack.packb([0, 1, [[rec.Repaired.TAG, 5, 2]]])
    assert codec.decode(payload).records == (rec.Repaired(Ino(5), 2),)


def test_an_appended_field_may_only_be_missing_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    @value
    class Later:
        TAG: ClassVar[int] = 77
        ino: int
        first: bytes = b"-"
        second: int | None = None

    monkeypatch.setitem(codec._LAYOUTS, 77, codec._layout_of(Later))  # type: ignore[arg-type]

    def decoded(*values: object) -> object:
        return codec.decode(msgpack.packb([0, 1, [[77, *values]]])).records[0]

    assert decoded(4) == Later(4)
    assert decoded(4, b"x") == Later(4, b"x")
    assert decoded(4, b"x", 3) == Later(4, b"x", 3)
    for wrong in ((), (4, 3), (4, None)):
        with pytest.raises(CorruptMetadataError):
            decoded(*wrong)


@pytest.mark.parametrize("record", [[99, 1], [0], [-1, 2], [rec.PinSet.TAG, 1, True, "more"]])
def test_what_a_newer_program_wrote_is_refused_as_unknown(record: list[object]) -> None:
    with pytest.raises(UnknownFormatError):
        codec.decode(msgpack.packb([0, 1, [record]]))


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        [0, 1],
        [0, 1, [], 4],
        [-1, 1, []],
        [0, -1, []],
        [False, 1, []],
        [0, 1, {}],
        [0, 1, [[]]],
        [0, 1, [["6", 1]]],
        [0, 1, [[True, 1]]],
        [0, 1, [[rec.PinSet.TAG, 1]]],
        [0, 1, [[rec.PinSet.TAG, 1, 1]]],
        [0, 1, [[rec.Unlinked.TAG, 1, "text", 1]]],
        [0, 1, [[rec.ExtentsAdded.TAG, 1, [[1]]]]],
        [0, 1, [[rec.ExtentsAdded.TAG, 1, [[1, 0]]]]],
        [0, 1, [[rec.ExtentsAdded.TAG, 1, [[-1, 1]]]]],
        [0, 1, [[rec.ExtentsAdded.TAG, 1, [7]]]],
    ],
)
def test_what_is_no_transaction_is_refused(value: object) -> None:
    with pytest.raises(CorruptMetadataError):
        codec.decode(msgpack.packb(value))


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xc1",
        b"\x90\x90",
        b"\xdd\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\x91" * 5000,
        b"\xa1\xff",
        b"\xd7\xff" + b"\xff" * 8,
        b"\x81\x90\x01",
        b"\x81\x80\x01",
    ],
)
def test_what_is_no_msgpack_is_refused(payload: bytes) -> None:
    with pytest.raises(CorruptMetadataError):
        codec.decode(payload)


@settings(max_examples=300)
@given(st.binary(max_size=200) | msgpack_values.map(msgpack.packb))
def test_any_bytes_are_a_transaction_or_refused(payload: bytes) -> None:
    try:
        codec.decode(payload)
    except MetadataError:
        pass


@settings(max_examples=300)
@given(any_transaction, st.data())
def test_a_damaged_transaction_is_decoded_or_refused(
    transaction: rec.Transaction, data: st.DataObject
) -> None:
    payload = bytearray(codec.encode(transaction))
    at = data.draw(st.integers(0, len(payload) - 1))
    payload[at] ^= data.draw(st.integers(1, 255))
    try:
        codec.decode(bytes(payload))
    except MetadataError:
        pass


def test_encoding_a_change_takes_microseconds() -> None:
    """The event loop pays this for every change. The bound is loose: the machine may be busy."""
    transaction = rec.Transaction((rec.Resized(Ino(5), 1 << 30, 0, 1_700_000_000_000_000_000),))
    best_ns = min(_nanoseconds_per_call(transaction) for _ in range(5))
    assert best_ns < 20_000


def _nanoseconds_per_call(transaction: rec.Transaction) -> float:
    calls = 1000
    began = time.process_time_ns()
    for _ in range(calls):
        codec.encode(transaction)
    return (time.process_time_ns() - began) / calls
