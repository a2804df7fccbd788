"""What the daemon and the command line say to each other, as bytes.

A message is a 4-byte big-endian length and a msgpack map of that many bytes. Each side first says hello
with its protocol version; then the client asks and the daemon answers with any number of events and one
reply, request after request:

    {"hello": "guestmemfs", "version": 1}
    {"op": "status", "args": {...}}
    {"event": {...}}
    {"ok": true, "result": ...}
    {"ok": false, "error": {"class": ..., "message": ..., "hint": ..., "exit_code": ...}}

The hello's shape never changes: after an upgrade, new commands meet the old daemon and must be able to say
so. File names that are not UTF-8 travel with surrogateescape.

Invariants: pure; whatever arrives, the only error that leaves here is ProtocolError.
Called by control/server.py and control/client.py.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

import msgpack

from guestmemfs_fuse.core.errors import DaemonError, GuestmemfsError

PROTOCOL_VERSION = 1
MAX_REQUEST_BYTES = 1 << 20
MAX_REPLY_BYTES = 64 << 20  # status lists every file: about 200 bytes each

_MAGIC = "guestmemfs"
_LENGTH = struct.Struct(">I")


class ProtocolError(DaemonError):
    """The other end does not speak this protocol."""


# -- values --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of either side."""

    version: int = PROTOCOL_VERSION


@dataclass(frozen=True, slots=True)
class Request:
    """What the client wants: an operation's name and its arguments."""

    op: str
    args: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Event:
    """Progress of the running request."""

    values: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Reply:
    """The request's result."""

    result: object = None


@dataclass(frozen=True, slots=True)
class ErrorReply:
    """The request failed: an error of core/errors.py by its class name."""

    class_name: str
    message: str
    hint: str | None = None
    exit_code: int = 1

    @classmethod
    def of(cls, error: GuestmemfsError) -> ErrorReply:
        """The reply that makes the client raise error."""
        return cls(type(error).__name__, error.message, error.hint, int(error.exit_code))


Message = Hello | Request | Event | Reply | ErrorReply


@dataclass(frozen=True, slots=True)
class Packed:
    """A value in a result that was packed before, in a thread and in pieces: packing stops everybody."""

    body: bytes


def pack_each(values: Iterable[object]) -> Packed:
    """A list of them. Raises what `encode` makes a ProtocolError of: TypeError, ValueError, OverflowError."""
    pieces = [_pack(value) for value in values]
    return Packed(b"".join([msgpack.Packer().pack_array_header(len(pieces)), *pieces]))


def _pack(value: object) -> bytes:
    return bytes(msgpack.packb(value, unicode_errors="surrogateescape"))


def _pieces(value: object) -> Iterator[bytes]:
    if isinstance(value, Packed):
        yield value.body
    elif isinstance(value, dict):
        yield msgpack.Packer().pack_map_header(len(value))
        for key, each in value.items():
            yield _pack(key)
            yield from _pieces(each)
    else:
        yield _pack(value)


# -- bytes ---------------------------------------------------------------------------------------------


def encode(message: Message, max_bytes: int = MAX_REPLY_BYTES) -> bytes:
    """The message with its length. Raises ProtocolError when it is too big or holds what msgpack cannot."""
    try:
        pieces = list(_pieces(_as_map(message)))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise ProtocolError(f"a message cannot be packed: {error}") from error
    size_bytes = sum(map(len, pieces))
    if size_bytes > max_bytes:
        raise ProtocolError(f"a message of {size_bytes} bytes is over the limit of {max_bytes}")
    return b"".join([_LENGTH.pack(size_bytes), *pieces])


def _as_map(message: Message) -> dict[str, object]:
    match message:
        case Hello(version):
            return {"hello": _MAGIC, "version": version}
        case Request(op, args):
            return {"op": op, "args": dict(args)}
        case Event(values):
            return {"event": dict(values)}
        case Reply(result):
            return {"ok": True, "result": result}
        case ErrorReply(class_name, text, hint, exit_code):
            details = {"class": class_name, "message": text, "hint": hint, "exit_code": exit_code}
            return {"ok": False, "error": details}


def decode(body: bytes) -> Message:
    """The message in body (without its length). Raises ProtocolError when it is none."""
    try:
        # The lengths inside are bounded by the body's own; depth is bounded by msgpack (StackError).
        values = msgpack.unpackb(body, unicode_errors="surrogateescape", ext_hook=_no_extensions)
    except (ValueError, msgpack.UnpackException, RecursionError) as error:
        raise ProtocolError(f"not a message: {error}") from error
    if not isinstance(values, dict):
        raise ProtocolError("not a message: no map")
    match values:
        case {"hello": "guestmemfs", "version": int(version), **rest} if not isinstance(version, bool):
            # Later versions may say more in their hello.
            del rest
            return Hello(version)
        case {"op": str(op), "args": dict(args), **rest} if not rest and _text_keys(args):
            return Request(op, args)
        case {"event": dict(event), **rest} if not rest and _text_keys(event):
            return Event(event)
        case {"ok": True, "result": result, **rest} if not rest:
            return Reply(result)
        case {"ok": False, "error": dict(details), **rest} if not rest:
            return _error_reply(details)
    raise ProtocolError(f"not a message: keys {sorted(map(str, values))[:8]}")


def _error_reply(details: dict[object, object]) -> ErrorReply:
    match details:
        case {"class": str(name), "message": str(text), "hint": str() | None as hint, "exit_code": int(code)}:
            return ErrorReply(name, text, hint, code)
    raise ProtocolError("not a message: malformed error")


def _text_keys(values: dict[object, object]) -> bool:
    return all(isinstance(key, str) for key in values)


def _no_extensions(code: int, data: bytes) -> NoReturn:
    raise ValueError(f"extension type {code}")


class Decoder:
    """Cuts a byte stream into messages. One per connection and direction."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[Message]:
        """Add what arrived; yields each message that is complete.

        Raises ProtocolError at the first one that is none or is announced longer than max_bytes; the
        connection is of no use then.
        """
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (size_bytes,) = _LENGTH.unpack_from(self._buffer)
            if size_bytes > self._max_bytes:
                raise ProtocolError(f"a message of {size_bytes} bytes is over the limit of {self._max_bytes}")
            end = _LENGTH.size + size_bytes
            if len(self._buffer) < end:
                return
            body = bytes(self._buffer[_LENGTH.size : end])
            del self._buffer[:end]
            yield decode(body)
