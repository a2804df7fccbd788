"""Framing and messages: everything that is sent arrives, and nothing that arrives can do harm."""

from __future__ import annotations

import struct

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from guestmemfs_fuse.control.protocol import (
    MAX_REQUEST_BYTES,
    Decoder,
    ErrorReply,
    Event,
    Hello,
    Message,
    ProtocolError,
    Reply,
    Request,
    decode,
    encode,
    pack_each,
)
from guestmemfs_fuse.core.errors import RegionFullError

file_names = st.binary(max_size=12).map(lambda raw: raw.decode(errors="surrogateescape"))
values = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | file_names | st.binary(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(file_names, inner, max_size=4),
    max_leaves=12,
)
maps = st.dictionaries(file_names, values, max_size=4)
messages = st.one_of(
    st.builds(Hello, st.integers(0, 1 << 32)),
    st.builds(Request, file_names, maps),
    st.builds(Event, maps),
    st.builds(Reply, values),
    st.builds(ErrorReply, file_names, file_names, st.none() | file_names, st.integers(0, 255)),
)


def frame(value: object) -> bytes:
    body: bytes = msgpack.packb(value)
    return struct.pack(">I", len(body)) + body


@given(st.lists(messages, max_size=5), st.lists(st.integers(1, 40), min_size=1))
def test_every_message_arrives_however_the_stream_is_cut(sent: list[Message], cuts: list[int]) -> None:
    stream = b"".join(encode(message) for message in sent)
    decoder = Decoder(MAX_REQUEST_BYTES)
    arrived: list[Message] = []
    position = index = 0
    while position < len(stream):
        step = cuts[index % len(cuts)]
        arrived += decoder.feed(stream[position : position + step])
        position, index = position + step, index + 1
    assert arrived == sent


@given(st.binary(max_size=200))
@example(b"\xff" * 8)
@example(struct.pack(">I", 3000) + b"\x91" * 3000)
@example(frame(msgpack.ExtType(5, b"x")))
@example(frame(msgpack.Timestamp(1)))
@example(struct.pack(">I", 5) + b"\xdd\xff\xff\xff\xff")
@example(struct.pack(">I", 0))
def test_hostile_bytes_raise_nothing_but_protocol_errors(data: bytes) -> None:
    try:
        list(Decoder(MAX_REQUEST_BYTES).feed(data))
    except ProtocolError:
        pass


@given(values)
def test_any_msgpack_value_is_a_message_or_a_protocol_error(value: object) -> None:
    try:
        decode(msgpack.packb(value, unicode_errors="surrogateescape"))
    except ProtocolError:
        pass


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {"hello": "somebody", "version": 1},
        {"hello": "guestmemfs", "version": True},
        {"hello": "guestmemfs"},
        {"op": "status"},
        {"op": 1, "args": {}},
        {"op": "status", "args": []},
        {"op": "status", "args": {}, "sudo": True},
        {"ok": True},
        {"ok": 1, "result": None},
        {"ok": False, "result": None},
        {"ok": False, "error": {"class": "X"}},
        {"event": "half"},
    ],
)
def test_what_is_no_message_is_refused(value: object) -> None:
    with pytest.raises(ProtocolError, match="not a message"):
        decode(msgpack.packb(value))


def test_integer_keys_are_refused_as_arguments() -> None:
    with pytest.raises(ProtocolError):
        decode(msgpack.packb({"op": "x", "args": {1: 2}}))


def test_a_later_hello_may_say_more() -> None:
    assert decode(msgpack.packb({"hello": "guestmemfs", "version": 9, "build": "x"})) == Hello(9)


def test_a_message_over_the_limit_is_refused_before_its_body_arrives() -> None:
    with pytest.raises(ProtocolError, match="over the limit of 10"):
        list(Decoder(10).feed(struct.pack(">I", 11)))


def test_a_message_over_the_limit_is_not_sent() -> None:
    with pytest.raises(ProtocolError, match="over the limit of 10"):
        encode(Request("status", {}), max_bytes=10)


@pytest.mark.parametrize("value", [object(), 1 << 64, {1, 2}])
def test_what_cannot_be_packed_is_a_protocol_error(value: object) -> None:
    with pytest.raises(ProtocolError, match="cannot be packed"):
        encode(Reply(value))


def test_an_error_keeps_class_message_hint_and_exit_code() -> None:
    reply = ErrorReply.of(RegionFullError("no room for 3 blocks", hint="destroy something"))
    assert reply == ErrorReply("RegionFullError", "no room for 3 blocks", "destroy something", 1)


def test_what_was_packed_before_arrives_as_if_it_had_not_been() -> None:
    rows = [{"path": "/\udce9t\udce9", "ino": number, "users": [1, None]} for number in range(70_000)]
    whole = encode(Reply({"region": {"kind": "tmpfs"}, "files": rows, "none": []}))
    pieces = encode(Reply({"region": {"kind": "tmpfs"}, "files": pack_each(rows), "none": pack_each([])}))
    assert pieces == whole


def test_what_was_packed_before_counts_for_the_limit() -> None:
    with pytest.raises(ProtocolError, match="over the limit of 100"):
        encode(Reply({"files": pack_each([b"x" * 100])}), 100)
