"""The daemon's control socket: one unix stream socket, root only, requests answered by a table of handlers.

Owns the listening socket and one task per client. Two safeguards against other users: the socket's mode
(0600, set before it has a name) and the peer's credentials.

Invariants: whatever a client sends or fails to send costs at most one task, one buffer of MAX_REQUEST_BYTES
and IDLE_TIMEOUT_S, and holds up neither other clients nor the watchdog (places.py; what the daemon asks
itself needs no place); a request that has begun runs to its end even when its client hangs up (a restart must
not be cancelled by Ctrl-C of the command). A handler's GuestmemfsError is the client's error; any other
exception is logged with its traceback and answered as an internal error, and the daemon goes on.

Who may await where: handlers run concurrently, one per client; each awaits only between whole commits.
Called by daemon.py.
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, suppress

import trio

from guestmemfs_fuse.control.places import Places
from guestmemfs_fuse.control.protocol import (
    MAX_REQUEST_BYTES,
    PROTOCOL_VERSION,
    Decoder,
    ErrorReply,
    Event,
    Hello,
    Message,
    ProtocolError,
    Reply,
    Request,
    encode,
)
from guestmemfs_fuse.core.errors import GuestmemfsError, InstanceBusyError, UnsupportedError, UsageError
from guestmemfs_fuse.handover.short_path import short_path
from guestmemfs_fuse.linux import process
from guestmemfs_fuse.metadata.instance_config import Paths

Progress = Callable[[Mapping[str, object]], Awaitable[None]]
"""Tells the client how far its request is; a client that reads too slowly
is hung up on."""

Handler = Callable[[Mapping[str, object], Progress], Awaitable[object]]
"""Does one operation: (arguments, progress) -> result that msgpack can pack."""

_Idle = Callable[[float], AbstractContextManager[object]]
"""Inside it a client is waited for that has no request: so many seconds at most."""

MAX_CLIENTS = 16
MAX_WAITING = 64
IDLE_TIMEOUT_S = 30.0
REPLY_TIMEOUT_S = 30.0
EVENT_TIMEOUT_S = 1.0
ROOT_ONLY = frozenset({0})

_log = logging.getLogger(__name__)


def bind_listener(state_dir: str) -> socket.socket:
    """Make the instance's control socket, replacing a stale one. Only with the instance's lock held.

    The caller closes it; `serve` does not. A successor may get it by the fd store's means (name
    fdnames.CONTROL), so that no client is turned away in between. Raises OSError.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        # The name takes its mode from the socket's inode (net/unix/af_unix.c unix_bind_bsd).
        os.fchmod(listener.fileno(), 0o600)
        path = Paths(state_dir).control_sock
        with suppress(FileNotFoundError):
            os.unlink(path)
        with short_path(path) as address:
            listener.bind(address)
        listener.listen(MAX_CLIENTS)
    except BaseException:
        listener.close()
        raise
    return listener


def adopt_listener(fd: int) -> socket.socket:
    """A listener that the predecessor made with bind_listener; owns fd from now on."""
    listener = socket.socket(fileno=fd)
    listener.setblocking(False)
    return listener


class ControlServer:
    """Serves one listener. `await serve()` runs until it is cancelled."""

    def __init__(
        self,
        listener: socket.socket,
        handlers: Mapping[str, Handler],
        *,
        allowed_uids: frozenset[int] = ROOT_ONLY,
        idle_timeout_s: float = IDLE_TIMEOUT_S,
        privileged_pid: int | None = None,
    ) -> None:
        """privileged_pid: the process that never waits for a place (default: this one, for the watchdog)."""
        self._listener = trio.socket.from_stdlib_socket(listener)
        self._handlers = handlers
        self._allowed_uids = allowed_uids
        self._idle_timeout_s = idle_timeout_s
        self._privileged_pid = os.getpid() if privileged_pid is None else privileged_pid
        self._places = Places(MAX_CLIENTS, MAX_WAITING)
        self._clients = 0
        self._answering = 0
        self._answered = trio.Event()
        self._alone = trio.Event()
        self._may_accept = trio.Event()
        self._may_accept.set()
        self._accepting = trio.CancelScope()
        self._counts = {"requests": 0, "refused": 0, "errors": 0, "internal_errors": 0}

    def statistics(self) -> dict[str, int]:
        """Clients connected now, and what was served since the start."""
        return {"clients": self._clients, **self._counts}

    async def serve(self) -> None:
        """Accept clients until cancelled; requests that run then are cancelled too."""
        async with trio.open_nursery() as nursery:
            while True:
                connection = await self._accept()
                nursery.start_soon(self._client, trio.SocketStream(connection))

    async def _accept(self) -> trio.socket.SocketType:
        while True:
            await self._may_accept.wait()
            with trio.CancelScope() as self._accepting:
                try:
                    connection, _address = await self._listener.accept()
                except OSError as error:
                    if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS):
                        raise
                    _log.warning("control: cannot accept a client: %s", error.strerror)
                    await trio.sleep(0.1)
                else:
                    return connection

    async def finish(self, timeout_s: float) -> None:
        """Accept nobody any more, and return once all requests are answered, or after timeout_s seconds.

        Who has asked for nothing is hung up on. Who connects from now on waits in the listener's queue: for a
        successor that has the listener too, or for us, after `accept_again`.
        """
        self._may_accept = trio.Event()
        self._accepting.cancel()
        self._places.be_patient(False)
        with trio.move_on_after(timeout_s):
            while self._clients:
                self._alone = trio.Event()
                await self._alone.wait()

    def accept_again(self) -> None:
        """After `finish`, when there is no successor after all."""
        self._places.be_patient(True)
        self._may_accept.set()

    async def _client(self, stream: trio.SocketStream) -> None:
        self._clients += 1
        try:
            async with stream:
                await self._admit(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # it hung up; what it asked for was done
        finally:
            self._clients -= 1
            if not self._clients:
                self._alone.set()

    async def _admit(self, stream: trio.SocketStream) -> None:
        try:
            if self._check_peer(stream) == self._privileged_pid:
                await self._converse(stream, trio.move_on_after)
            else:
                async with self._places.taken():
                    await self._converse(stream, self._places.without_request)
        except (UnsupportedError, InstanceBusyError) as error:
            self._counts["refused"] += 1
            await self._send(stream, ErrorReply.of(error))

    async def _converse(self, stream: trio.SocketStream, idle: _Idle) -> None:
        await self._send(stream, Hello())
        decoder = Decoder(MAX_REQUEST_BYTES)
        greeted = False
        while data := await self._receive(stream, idle):
            try:
                for message in decoder.feed(data):
                    if not greeted:
                        greeted = _check_hello(message)
                    else:
                        await self._serve_one(stream, message)
            except ProtocolError as error:
                self._counts["refused"] += 1
                await self._send(stream, ErrorReply.of(error))
                return

    async def _serve_one(self, stream: trio.SocketStream, message: Message) -> None:
        self._answering += 1
        try:
            await self._send(stream, await self._answer(stream, message))
        finally:
            self._answering -= 1
            if not self._answering:
                self._answered.set()

    async def all_answered(self) -> None:
        """Return once no request waits for its answer."""
        while self._answering:
            self._answered = trio.Event()
            await self._answered.wait()

    def _check_peer(self, stream: trio.SocketStream) -> int:
        """The peer's process id."""
        pid, uid = process.peer(stream.socket)
        if uid not in self._allowed_uids:
            _log.warning("control: refused process %d of user %d", pid, uid)
            raise UnsupportedError("only root may talk to the daemon", hint="use sudo")
        return pid

    async def _receive(self, stream: trio.SocketStream, idle: _Idle) -> bytes:
        with idle(self._idle_timeout_s):
            return bytes(await stream.receive_some(1 << 16))
        if stream.socket.is_readable():  # said in the moment it was cut short
            return bytes(await stream.receive_some(1 << 16))
        return b""

    async def _send(self, stream: trio.SocketStream, message: Message) -> None:
        try:
            data = encode(message)
        except ProtocolError as error:
            _log.error("control: %s", error.message)
            data = encode(ErrorReply.of(error))
        with trio.move_on_after(REPLY_TIMEOUT_S) as scope:
            await stream.send_all(data)
        if scope.cancelled_caught:
            raise trio.BrokenResourceError("the client does not read")

    async def _answer(self, stream: trio.SocketStream, message: Message) -> Reply | ErrorReply:
        if not isinstance(message, Request):
            raise ProtocolError(f"expected a request, not a {type(message).__name__.lower()}")
        handler = self._handlers.get(message.op)
        self._counts["requests"] += 1
        if handler is None:
            unknown = UsageError(
                f"the daemon knows no {message.op!r}", hint="`guestmemfs restart` brings it up to date"
            )
            return ErrorReply.of(unknown)
        try:
            return Reply(await handler(message.args, _Progress(stream).tell))
        except GuestmemfsError as error:
            self._counts["errors"] += 1
            return ErrorReply.of(error)
        except Exception as error:
            return self._failure(message.op, error)

    def _failure(self, op: str, error: Exception) -> ErrorReply:
        """A lone GuestmemfsError inside a nursery's group is meant for the client; the rest is a bug."""
        inner: BaseException = error
        while isinstance(inner, BaseExceptionGroup) and len(inner.exceptions) == 1:
            inner = inner.exceptions[0]
        if isinstance(inner, GuestmemfsError):
            self._counts["errors"] += 1
            return ErrorReply.of(inner)
        self._counts["internal_errors"] += 1
        _log.error("control: %s failed", op, exc_info=error)
        return ErrorReply(
            "DaemonError", f"internal error in {op}: {inner!r}", "the daemon's log has the traceback", 8
        )


class _Progress:
    """Sends events until the client stops reading, then hangs up on it; the work goes on."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def tell(self, values: Mapping[str, object]) -> None:
        data = encode(Event(values))
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            with trio.move_on_after(EVENT_TIMEOUT_S) as scope:
                await self._stream.send_all(data)
            if scope.cancelled_caught:
                # Half an event may be on its way: nothing that follows could be understood.
                await trio.aclose_forcefully(self._stream)


def _check_hello(message: Message) -> bool:
    if not isinstance(message, Hello):
        raise ProtocolError("say hello first")
    if message.version != PROTOCOL_VERSION:
        raise ProtocolError(
            f"the daemon speaks version {PROTOCOL_VERSION} of the control protocol, not {message.version}"
        )
    return True
