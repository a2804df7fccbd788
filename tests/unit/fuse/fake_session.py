"""A relay between a kernel and a libfuse that are made of socketpairs and this file.

FakeKernel stands for the device: a SOCK_SEQPACKET pair, whose other end the relay takes for /dev/fuse.
FakeLibfuse answers what it is given, by way of wait_for_request() as pyfuse3's worker does, or by watching
its descriptor while the relay pumps. Hooks write down what they were asked.
"""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import trio

from guestmemfs_fuse.fuse import abi, wire
from guestmemfs_fuse.fuse.abi import InitFlag, Opcode
from guestmemfs_fuse.fuse.hooks import Request, TmpfileReply
from guestmemfs_fuse.fuse.phase import Ended
from guestmemfs_fuse.fuse.relay import Relay
from guestmemfs_fuse.fuse.wire import RequestHeader

PID = 4711
WAIT_S = 5.0


def init_request() -> bytes:
    flags = (1 << 43) - 1
    body = abi.INIT_IN.pack(7, 45, 131072, flags & 0xFFFF_FFFF, flags >> 32).ljust(abi.INIT_IN_BYTES, b"\0")
    return abi.IN_HEADER.pack(abi.IN_HEADER.size + len(body), Opcode.INIT, 2, 0, 0, 0, 0, 0, 0) + body


class KernelGot(NamedTuple):
    error: int
    unique: int
    body: bytes


class FakeKernel:
    """The kernel's side of the device."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        theirs.setblocking(False)
        self._end = trio.socket.from_stdlib_socket(ours)
        self._theirs = theirs
        self.device_fd = theirs.fileno()

    async def send(self, opcode: int, body: bytes = b"", *, unique: int, nodeid: int = 7) -> None:
        length = abi.IN_HEADER.size + len(body)
        await self.send_raw(abi.IN_HEADER.pack(length, opcode, unique, nodeid, 1000, 100, PID, 0, 0) + body)

    async def send_raw(self, message: bytes) -> None:
        await self._end.send(message)

    async def receive(self) -> KernelGot:
        with trio.fail_after(WAIT_S):
            message = await self._end.recv(1 << 20)
        header = wire.reply_header(message)
        return KernelGot(header.error, header.unique, message[abi.OUT_HEADER.size :])

    async def call(self, opcode: int, body: bytes = b"", *, unique: int, nodeid: int = 7) -> KernelGot:
        await self.send(opcode, body, unique=unique, nodeid=nodeid)
        return await self.receive()

    def has_something(self) -> bool:
        try:
            self._end._sock.recv(1, socket.MSG_PEEK)  # type: ignore[attr-defined]
        except BlockingIOError:
            return False
        return True

    def unread_by_relay(self) -> bool:
        """Whether a request still waits in the device."""
        try:
            return bool(self._theirs.recv(1, socket.MSG_PEEK))
        except BlockingIOError:
            return False

    def unmount(self) -> None:
        self._end.close()

    def close(self) -> None:
        self._end.close()
        self._theirs.close()


Handler = Callable[[RequestHeader, bytes], Awaitable[bytes]]


@dataclass
class FakeLibfuse:
    """Answers INIT as libfuse does, and everything else by handlers, or success without a body."""

    relay: Relay
    inline: bool
    handlers: dict[int, Handler] = field(default_factory=dict)
    blocking: dict[int, trio.Event] = field(default_factory=dict)
    seen: list[RequestHeader] = field(default_factory=list)

    async def serve(self, nursery: trio.Nursery) -> None:
        """A worker. Handlers run beside it; an opcode in `blocking` makes the worker itself wait."""
        try:
            while True:
                if self.inline:
                    await self.relay.wait_for_request()
                else:
                    await trio.lowlevel.wait_readable(self.relay.session_fd)
                message = os.read(self.relay.session_fd, 1 << 20)
                if not message:
                    return
                header = wire.request_header(message)
                self.seen.append(header)
                if header.opcode in self.blocking:
                    await self.blocking[header.opcode].wait()
                body = message[abi.IN_HEADER.size :]
                if header.opcode in self.handlers:
                    nursery.start_soon(self._answer, header, body)
                else:
                    self._reply(header, self._init_reply(body) if header.opcode == Opcode.INIT else b"")
        except trio.ClosedResourceError:
            return

    async def _answer(self, header: RequestHeader, body: bytes) -> None:
        self._reply(header, await self.handlers[header.opcode](header, body))

    def _init_reply(self, body: bytes) -> bytes:
        _, minor, readahead, low, _ = abi.INIT_IN.unpack_from(body)
        return abi.INIT_OUT_COMPAT_22.pack(7, minor, readahead, low & InitFlag.ASYNC_READ, 12, 9, 1 << 20)

    def _reply(self, header: RequestHeader, body: bytes, error: int = 0) -> None:
        self.write(abi.OUT_HEADER.pack(abi.OUT_HEADER.size + len(body), error, header.unique) + body)

    def write(self, message: bytes) -> None:
        os.write(self.relay.session_fd, message)


@dataclass
class Attributes:
    st_ino: int = 7
    generation: int = 0
    entry_timeout: float = 300
    attr_timeout: float = 0.25
    st_mode: int = 0o100600
    st_nlink: int = 0
    st_uid: int = 1000
    st_gid: int = 100
    st_rdev: int = 0
    st_size: int = 1 << 40
    st_blksize: int = 1 << 21
    st_blocks: int = 4096
    st_atime_ns: int = 1_500_000_000
    st_mtime_ns: int = -1
    st_ctime_ns: int = 0


@dataclass
class FakeHooks:
    """Writes everything down; raises `error`, and waits for `gate`, when they are set."""

    backing: dict[int, int] = field(default_factory=dict)
    error: Exception | None = None
    gate: trio.Event | None = None
    calls: list[tuple[object, ...]] = field(default_factory=list)

    def _refuse(self) -> None:
        if self.error is not None:
            raise self.error

    async def _work(self) -> None:
        if self.gate is not None:
            await self.gate.wait()
        self._refuse()

    def backing_for(self, nodeid: int) -> int | None:
        self._refuse()
        return self.backing.get(nodeid)

    def forget(self, nodeids: list[int]) -> None:
        self.calls.append(("forget", nodeids))
        self._refuse()

    def interrupt(self, unique: int) -> None:
        self.calls.append(("interrupt", unique))

    async def fallocate(self, request: Request, fh: int, offset: int, length: int, mode: int) -> None:
        self.calls.append(("fallocate", request, fh, offset, length, mode))
        await self._work()

    async def lseek(self, request: Request, offset: int, whence: int) -> int:
        self.calls.append(("lseek", request, offset, whence))
        await self._work()
        return offset + 4096

    async def tmpfile(self, request: Request, mode: int, flags: int, umask: int) -> TmpfileReply:
        self.calls.append(("tmpfile", request, mode, flags, umask))
        await self._work()
        return TmpfileReply(Attributes(st_ino=55), 66)


Scene = Callable[["Session"], Awaitable[None]]


def play(
    scene: Scene, *, inline: bool = True, fresh: bool = True, clock: trio.abc.Clock | None = None
) -> None:
    """Run a scene. inline: libfuse asks the relay for requests; fresh: INIT is done already."""

    async def main() -> None:
        with trio.fail_after(20):
            async with session(inline) as s:
                if fresh:
                    await s.fresh()
                await scene(s)

    trio.run(main, clock=clock)


@dataclass
class Session:
    kernel: FakeKernel
    relay: Relay
    libfuse: FakeLibfuse
    hooks: FakeHooks
    nursery: trio.Nursery
    ended: list[Ended] = field(default_factory=list)

    async def run(self) -> None:
        self.ended.append(await self.relay.run(pump=not self.libfuse.inline))

    async def fresh(self) -> bytes:
        """Go through INIT as the first daemon does."""
        await self.kernel.send_raw(init_request())
        stored = await self.relay.start_fresh()
        self.init_reply = await self.kernel.receive()
        return stored


@asynccontextmanager
async def session(
    inline: bool = True, on_init: Callable[[bytes], None] | None = None
) -> AsyncIterator[Session]:
    """A session before INIT; afterwards everything is ended and closed."""
    kernel, hooks = FakeKernel(), FakeHooks()
    relay = Relay(kernel.device_fd, hooks, on_init) if on_init else Relay(kernel.device_fd, hooks)
    try:
        async with trio.open_nursery() as nursery:
            made = Session(kernel, relay, FakeLibfuse(relay, inline), hooks, nursery)
            nursery.start_soon(made.run)
            nursery.start_soon(made.libfuse.serve, nursery)
            yield made
            relay.end_session()
            nursery.cancel_scope.cancel()
    finally:
        os.close(relay.session_fd)
        relay.close()
        kernel.close()
