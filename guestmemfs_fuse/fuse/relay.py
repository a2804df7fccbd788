"""The channel between /dev/fuse and libfuse: reads each request, touches the few that need it, carries the
rest.

libfuse (inside pyfuse3) sits at the other end of a socketpair that keeps message boundaries, and believes
it is the device. The relay owns the socketpair and the table of requests in flight, not the device: that
descriptor outlives daemons.

How a request travels without a wakeup of its own: whoever wants the next one (pyfuse3's worker, by way of
session.py) calls wait_for_request(), which reads the device itself and puts one message into the socket.
The reply is in the socket when the worker comes back to ask for more, and is carried to the kernel then.
Replies that come at another time are caught by a task of run().

Invariants
- one reader: wait_for_request() is never entered twice at a time (pyfuse3 holds a lock around it);
- a request is in the table from the moment it is read until its reply was written;
- the device is read only while STARTING and SERVING, so that a request is never taken that we cannot answer;
- a reply carries the unique as it was read, resend bit included.
Called by the switchboard (daemon.py), session.py, and by operations for request_of().
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from enum import Enum, auto
from time import monotonic_ns
from typing import Final

import trio

from guestmemfs_fuse.core.errors import DaemonError, FsError
from guestmemfs_fuse.fuse import abi, negotiate, notify, wire
from guestmemfs_fuse.fuse.abi import Opcode
from guestmemfs_fuse.fuse.answers import NOTED, REFUSED, Answers, Work
from guestmemfs_fuse.fuse.errno_map import errno_of
from guestmemfs_fuse.fuse.hooks import RelayHooks, Request
from guestmemfs_fuse.fuse.inflight import InFlight, InFlightTable
from guestmemfs_fuse.fuse.statistics import Counters, RelayStatistics

_log = logging.getLogger(__name__)

# The other tasks get a turn after this many requests in a row, however busy the device is
_BURST: Final = 16

_SOCKET_BUFFER_BYTES: Final = 4 << 20
_SO_SNDBUFFORCE: Final = 32  # include/uapi/asm-generic/socket.h; needs CAP_NET_ADMIN

_PATCHED: Final = frozenset({Opcode.OPEN.value, Opcode.CREATE.value})
_INIT: Final = Opcode.INIT.value


class Phase(Enum):
    """Where the session stands."""

    NEW = auto()
    STARTING = auto()
    RESUMING = auto()
    SERVING = auto()
    DRAINED = auto()
    ENDED = auto()


class Ended(Enum):
    """Why the session is over."""

    UNMOUNTED = "unmounted"
    ABORTED = "aborted"
    SESSION_CLOSED = "session closed"


_NEXT: Final[dict[Phase, frozenset[Phase]]] = {
    Phase.NEW: frozenset({Phase.STARTING, Phase.RESUMING, Phase.ENDED}),
    Phase.STARTING: frozenset({Phase.SERVING, Phase.ENDED}),
    Phase.RESUMING: frozenset({Phase.SERVING, Phase.ENDED}),
    Phase.SERVING: frozenset({Phase.DRAINED, Phase.ENDED}),
    Phase.DRAINED: frozenset({Phase.SERVING, Phase.ENDED}),
    Phase.ENDED: frozenset(),
}


class Relay:
    """See the module's docstring. device_fd: a mounted, non-blocking /dev/fuse; it stays the caller's."""

    def __init__(self, device_fd: int, hooks: RelayHooks) -> None:
        self._device_fd = device_fd
        self._hooks = hooks
        self._answers = Answers(hooks)
        self._ours, theirs = _socketpair()
        self.session_fd = theirs.detach()
        self._request = memoryview(bytearray(abi.REQUEST_BUFFER_BYTES))
        self._reply = memoryview(bytearray(abi.REQUEST_BUFFER_BYTES))
        self._table = InFlightTable()
        self._counters = Counters()
        self._phase = Phase.NEW
        self._changed = trio.Event()
        self._running = trio.Event()
        self._idle = trio.Event()
        self._tasks: trio.Nursery | None = None
        self._ended: Ended | None = None
        self._owed = 0  # messages given to libfuse that it has not answered yet
        self._injected = False
        self._burst = 0
        self._init_request = b""
        self._init_flags = abi.InitFlag(0)
        self._resend_supported: bool | None = None

    # -- the session's life ---------------------------------------------------------------------------

    @property
    def session_path(self) -> str:
        """What pyfuse3.init() is to be given as its mountpoint. libfuse closes session_fd in the end."""
        return f"/dev/fd/{self.session_fd}"

    @property
    def phase(self) -> Phase:
        """Where the session stands."""
        return self._phase

    @property
    def init_flags(self) -> abi.InitFlag:
        """What the kernel and we agreed on; empty before SERVING."""
        return self._init_flags

    async def run(self, *, pump: bool = True) -> Ended:
        """Serve until the connection ends, and say why it did.

        pump: read the device from a task here. False when session.py made pyfuse3 call wait_for_request
        itself. Hook calls still under way when the connection ends are waited for, not cancelled.
        """
        async with trio.open_nursery() as self._tasks, trio.open_nursery() as own:
            own.start_soon(self._catch_late_replies)
            if pump:
                own.start_soon(self._pump)
            self._running.set()
            while self._ended is None:
                await self._changed.wait()
            own.cancel_scope.cancel()
        assert self._ended is not None
        return self._ended

    async def start_fresh(self) -> bytes:
        """Let the kernel's INIT through and answer it; return that request, which resume() will need.

        pyfuse3.main and run() must be running, or come to run. Raises DaemonError when the session ends
        first.
        """
        await self._running.wait()
        self._go(Phase.STARTING)
        await self._until_serving()
        return self._init_request

    async def resume(self, stored_init: bytes) -> None:
        """Take over a session whose kernel side is long initialised.

        libfuse is shown the stored INIT, its reply goes nowhere; then the kernel is asked for what a dead
        daemon left unanswered. Kernels without NOTIFY_RESEND (< 6.9) answer EINVAL, which statistics()
        reports: then such callers wait until they are killed. Raises like start_fresh.
        """
        await self._running.wait()
        self._go(Phase.RESUMING)
        self._inject_init(stored_init)
        await self._until_serving()

    async def drain(self, timeout_s: float) -> int:
        """Stop reading the device and wait until all that was read is answered.

        What comes meanwhile stays in the kernel for the successor. Returns how many requests were still in
        flight after timeout_s seconds; these come back to the successor by NOTIFY_RESEND.
        """
        if self._phase is Phase.SERVING:
            self._go(Phase.DRAINED)
        self._idle = trio.Event()
        if self._table:
            with trio.move_on_after(timeout_s):
                await self._idle.wait()
        return len(self._table)

    def undrain(self) -> None:
        """Read the device again, when the successor did not come up."""
        if self._phase is Phase.DRAINED:
            self._go(Phase.SERVING)

    def end_session(self) -> None:
        """Stop serving without an unmount: wait_for_request() refuses from now on, run() returns."""
        self._end(Ended.SESSION_CLOSED)

    def close(self) -> None:
        """Close our end of the socket, after pyfuse3.close() closed the other. The device stays open."""
        self._ours.close()

    def request_of(self, token: int) -> Request:
        """The request a pyfuse3 handler serves, by its ctx.pid. KeyError once it is answered."""
        return self._table.request_of(token)

    def statistics(self) -> RelayStatistics:
        """A frozen look at the counters."""
        return self._counters.freeze(
            in_flight=len(self._table),
            oldest_in_flight_ns=self._table.oldest_age_ns(monotonic_ns()),
            resend_supported=self._resend_supported,
            init_flags=self._init_flags,
        )

    def _go(self, phase: Phase) -> None:
        if phase not in _NEXT[self._phase]:
            raise DaemonError(f"the session cannot become {phase.name} while it is {self._phase.name}")
        self._phase = phase
        self._changed.set()
        self._changed = trio.Event()
        # whoever waits for the device shall look at the phase again
        trio.lowlevel.notify_closing(self._device_fd)

    def _end(self, reason: Ended) -> None:
        if self._ended is None:
            self._ended = reason
            self._go(Phase.ENDED)

    async def _until_serving(self) -> None:
        while self._phase is not Phase.SERVING:
            if self._ended is not None:
                raise DaemonError(f"the FUSE session ended before it began ({self._ended.value})")
            await self._changed.wait()

    # -- from the kernel ------------------------------------------------------------------------------

    async def wait_for_request(self) -> None:
        """Return once one more message lies in the socket for libfuse.

        What is not for libfuse is dealt with on the way. Raises trio.ClosedResourceError when the session
        is over, which is what pyfuse3's loop takes as its end.
        """
        self.forward_replies()
        while True:
            if self._injected:
                self._injected = False
                return
            if self._phase is not Phase.SERVING and self._phase is not Phase.STARTING:
                if self._ended is not None:
                    raise trio.ClosedResourceError(self._ended.value)
                await self._changed.wait()
                continue
            if self._burst >= _BURST:
                self._burst = 0
                await trio.lowlevel.checkpoint()
                continue
            length = await self._read_device()
            if length and await self._take(self._request[:length]):
                return

    async def _read_device(self) -> int:
        """Read one request; 0 after waiting, or when there is none after all."""
        try:
            length = os.readv(self._device_fd, (self._request,))
            self._burst += 1
            return length
        except BlockingIOError:
            self._burst = 0
        except OSError as error:
            self._device_failed(error)
            return 0
        try:
            await trio.lowlevel.wait_readable(self._device_fd)
        except trio.ClosedResourceError:
            pass  # the phase changed
        return 0

    def _device_failed(self, error: OSError) -> None:
        """fs/fuse/dev.c: ENODEV after umount, ECONNABORTED after an abort, ENOENT for a request withdrawn."""
        if error.errno == errno.ENODEV:
            self._end(Ended.UNMOUNTED)
        elif error.errno in (errno.ECONNABORTED, errno.ENOTCONN):
            self._end(Ended.ABORTED)
        elif error.errno != errno.ENOENT:
            raise error

    async def _take(self, message: memoryview) -> bool:
        """Deal with one request; True when it went to libfuse."""
        try:
            header = wire.request_header(message)
        except wire.WireError:
            _log.exception("the kernel sent what is no request")
            return False
        opcode = header.opcode
        self._counters.request(opcode, header.length)
        if opcode in NOTED:
            self._note(opcode, message)
            return False
        if opcode == _INIT:
            await self._send_init(bytes(message))
            return True
        entry = self._table.add(header, monotonic_ns())
        if entry.request.resent:
            self._counters.resent += 1
        if opcode in REFUSED:
            self._finish(entry, wire.error_reply(entry.raw_unique, REFUSED[opcode]))
            return False
        if opcode in self._answers.opcodes:
            self._start(entry, message)
            return False
        wire.stamp(message, entry.token)
        await self._send(message)
        return True

    async def _send(self, message: wire.Buffer) -> None:
        self._owed += 1
        while True:
            try:
                self._ours.send(message)
                return
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._ours)
            except (BrokenPipeError, ConnectionError):
                self._end(Ended.SESSION_CLOSED)
                return

    def _note(self, opcode: int, message: memoryview) -> None:
        self._counters.swallowed += 1
        if opcode == Opcode.INTERRUPT:
            self._counters.interrupted += 1
        try:
            self._answers.note(opcode, message)
        except Exception:
            _log.exception("a hook failed at %s", Opcode(opcode).name)

    # -- answers of our own ---------------------------------------------------------------------------

    def _start(self, entry: InFlight, message: memoryview) -> None:
        assert self._tasks is not None
        try:
            work = self._answers.start(entry, message)
        except wire.WireError as error:
            self._finish(entry, self._refusal(entry, error))
            return
        self._tasks.start_soon(self._work, entry, work)

    async def _work(self, entry: InFlight, work: Work) -> None:
        try:
            reply = await work()
        except Exception as error:
            reply = self._refusal(entry, error)
        self._finish(entry, reply)

    def _refusal(self, entry: InFlight, error: Exception) -> bytes:
        if not isinstance(error, FsError):
            _log.error("a bug answers opcode %d with EIO", entry.opcode, exc_info=error)
        return wire.error_reply(entry.raw_unique, errno_of(error))

    # -- to the kernel --------------------------------------------------------------------------------

    def forward_replies(self) -> None:
        """Carry to the kernel whatever libfuse has answered by now."""
        while self._owed and self._forward_one():
            pass

    def _forward_one(self) -> bool:
        try:
            length = self._ours.recv_into(self._reply)
        except BlockingIOError:
            return False
        except OSError:
            length = 0
        if not length:
            self._end(Ended.SESSION_CLOSED)
            return False
        reply = self._reply[:length]
        try:
            header = wire.reply_header(reply)
        except wire.WireError:
            _log.exception("libfuse wrote what is no reply")
            return True
        entry = self._table.get(header.unique)
        if entry is None:
            self._unowed(header, reply)
        elif header.error == 0 and entry.opcode in _PATCHED:
            self._owed -= 1
            self._finish(entry, self._patched(entry, reply))
        else:
            self._owed -= 1
            self._finish(entry, reply)
        return True

    def _unowed(self, header: wire.ReplyHeader, reply: memoryview) -> None:
        """A notification of libfuse's own, or the INIT reply, which no table entry stands for."""
        if header.unique == 0:
            self._write(reply)
        elif self._phase in (Phase.STARTING, Phase.RESUMING):
            self._owed -= 1
            self._init_answered(reply)
        else:
            _log.error("libfuse answered request %d, which it was not given", header.unique)

    def _patched(self, entry: InFlight, reply: memoryview) -> wire.Buffer:
        try:
            if entry.opcode == Opcode.OPEN:
                wire.patch_open(reply, self._hooks.backing_for(entry.request.nodeid))
            else:
                wire.patch_create(reply, self._hooks.backing_for(wire.created_nodeid(reply)))
        except Exception as error:
            return self._refusal(entry, error)
        return reply

    def _finish(self, entry: InFlight, reply: wire.Buffer) -> None:
        self._write(reply)
        self._table.pop(entry.raw_unique)
        self._counters.reply(entry.opcode, monotonic_ns() - entry.started_ns)
        if not self._table:
            self._idle.set()

    def _write(self, message: wire.Buffer) -> None:
        try:
            os.write(self._device_fd, message)
        except FileNotFoundError:
            self._counters.stale_replies += 1
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EPERM):
                self._device_failed(error)
                return
            _log.error("the kernel refused a reply of %d bytes: %s", len(message), error)
        else:
            self._counters.bytes_to_kernel += len(message)

    # -- INIT -----------------------------------------------------------------------------------------

    async def _send_init(self, request: bytes) -> None:
        self._init_request = request
        await self._send(negotiate.request_for_libfuse(request))

    def _inject_init(self, request: bytes) -> None:
        self._init_request = request
        self._ours.send(negotiate.request_for_libfuse(request))
        self._owed += 1
        self._injected = True
        # a pump, unlike pyfuse3's worker, would take the flag for a message
        self._changed.set()
        self._changed = trio.Event()

    def _init_answered(self, reply: memoryview) -> None:
        answer = negotiate.reply_for_kernel(reply, self._init_request)
        self._init_flags = negotiate.accepted(answer)
        if self._phase is Phase.STARTING:
            self._write(answer)
        else:
            self._counters.swallowed += 1
            self._ask_for_resend()
        self._go(Phase.SERVING)

    def _ask_for_resend(self) -> None:
        try:
            os.write(self._device_fd, notify.resend())
            self._resend_supported = True
        except OSError as error:
            if error.errno != errno.EINVAL:
                self._device_failed(error)
            self._resend_supported = False

    # -- tasks of run() -------------------------------------------------------------------------------

    async def _pump(self) -> None:
        try:
            while True:
                await self.wait_for_request()
                await trio.lowlevel.checkpoint_if_cancelled()
        except trio.ClosedResourceError:
            pass

    async def _catch_late_replies(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._ours)
            while self._forward_one():
                pass


def _socketpair() -> tuple[socket.socket, socket.socket]:
    """Our end does not block. Theirs does: libfuse takes EAGAIN for the end of everything.

    The buffers hold every reply that can be outstanding, so that libfuse's blocking write never waits for us.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
    ours.setblocking(False)
    for end in (ours, theirs):
        try:
            end.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _SOCKET_BUFFER_BYTES)
        except PermissionError:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER_BYTES)
    return ours, theirs
