"""Inputs to begin with: real messages and real metadata, so that a fuzzer starts behind the first checks."""

from __future__ import annotations

from collections.abc import Iterator

from guestmemfs_fuse.control import protocol
from guestmemfs_fuse.core import evolve
from guestmemfs_fuse.fuse import abi
from guestmemfs_fuse.metadata import codec, snapshot
from guestmemfs_fuse.metadata.framing import HEADER_BYTES, FileHeader, FileKind, FrameReader
from guestmemfs_fuse.metadata.store import Store
from tests.fuzz.targets import REGION
from tests.unit.metadata.memory_files import MemoryFiles
from tests.unit.metadata.workload import fresh_state, history


def seeds(target: str) -> Iterator[bytes]:
    """What the target of that name is begun with."""
    yield b""
    yield from {"wire": _wire, "control": _control, "journal": _journal, "snapshot": _snapshot}[target]()


def _wire() -> Iterator[bytes]:
    for opcode in abi.Opcode:
        for length in (0, 8, 40, 104):
            body = bytes(range(length))
            yield abi.IN_HEADER.pack(abi.IN_HEADER.size + length, opcode, 2, 1, 0, 0, 9, 0, 0) + body
    for length in (0, 16, 64, 160):
        yield abi.OUT_HEADER.pack(abi.OUT_HEADER.size + length, 0, 2) + bytes(length)


def _control() -> Iterator[bytes]:
    messages: list[protocol.Message] = [
        protocol.Hello(),
        protocol.Request("map", {"path": "/vm1", "force": True}),
        protocol.Event({"done": 1, "total": 2}),
        protocol.Reply({"files": [{"path": "/x", "size_bytes": 1 << 40}]}),
        protocol.ErrorReply("BusyFsError", "busy", None, 5),
    ]
    yield from map(protocol.encode, messages)
    yield b"".join(map(protocol.encode, messages))


def _sized(payloads: list[bytes]) -> bytes:
    return b"".join(len(each).to_bytes(2, "little") + each for each in payloads)


def _journal() -> Iterator[bytes]:
    for extents in (False, True):
        transactions, _ = history(11, 40, extents)
        payloads = [codec.encode(each) for each in transactions]
        yield _sized(payloads)
        yield _sized(payloads[:5])
        yield from (_sized([each]) for each in payloads)
    files = MemoryFiles()
    made = Store.create(files, REGION, fresh_state())
    for transaction in history(11, 40)[0]:
        made.append(transaction)
    yield files.read(files.names()[0])


def _snapshot() -> Iterator[bytes]:
    for extents in (False, True):
        state = fresh_state(extents=extents)
        for transaction in history(11, 40, extents)[0]:
            evolve.apply(state, transaction)
        data = b"".join(snapshot.pack_snapshot(FileHeader(FileKind.SNAPSHOT, REGION, 0, 5), state))
        yield data
        payloads = [bytes(payload) for _, payload in FrameReader(data, 1, "seed")]
        yield _sized(payloads[:-1])
        assert len(data) > HEADER_BYTES
