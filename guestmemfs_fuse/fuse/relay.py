"""The channel between /dev/fuse and libfuse: carries every message, touches the few that need it.

libfuse (inside pyfuse3) sits at the other end of a socketpair that keeps message boundaries, and believes
it is the device. The relay owns the socketpair and the table of requests in flight, not the device: that
descriptor outlives daemons.

How a request travels without a wakeup of its own: whoever wants the next one (pyfuse3's worker, by way of
session.py) calls wait_for_request(), which reads the device itself and puts one message into the socket.
The reply is in the socket when the worker comes back to ask for more, and is carried to the kernel then.
Replies that come at another time are caught by a task of run().

Invariants
- one watcher: of the workers in wait_for_request(), one waits for the device and the others are parked;
- a request is in the table from the moment it is read until its reply was written;
- the device is read only while STARTING and SERVING, so that a request is never taken that we cannot answer;
- a reply carries the unique as it was read, resend bit included.
Called by the switchboard (daemon.py), session.py, and by operations for find_request().
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from time import monotonic_ns
from typing import Final

import trio

from guestmemfs_fuse.core.errors import FsError
from guestmemfs_fuse.fuse import abi, negotiate, wire
from guestmemfs_fuse.fuse.abi import Opcode
from guestmemfs_fuse.fuse.answers import NOTED, Answers, DirectAnswer, Work
from guestmemfs_fuse.fuse.device_end import DeviceEnd
from guestmemfs_fuse.fuse.errno_map import errno_of
from guestmemfs_fuse.fuse.hooks import RelayHooks, Request
from guestmemfs_fuse.fuse.inflight import InFlight, InFlightTable
from guestmemfs_fuse.fuse.libfuse_end import LibfuseEnd
from guestmemfs_fuse.fuse.phase import Ended, Lifecycle, Phase
from guestmemfs_fuse.fuse.statistics import Counters, RelayStatistics

_log = logging.getLogger(__name__)

# The other tasks get a turn after this many requests in a row, however busy the device is
_BURST: Final = 16

_PATCHED: Final = frozenset({Opcode.OPEN.value, Opcode.CREATE.value})
_INIT: Final = Opcode.INIT.value
_SETATTR: Final = Opcode.SETATTR.value


def _nothing(init_request: bytes) -> None:
    pass


class Relay:
    """See the module's docstring. device_fd: a mounted, non-blocking /dev/fuse; it stays the caller's."""

    def __init__(
        self,
        device_fd: int,
        hooks: RelayHooks,
        on_init: Callable[[bytes], None] = _nothing,
        direct: Mapping[int, DirectAnswer] | None = None,
    ) -> None:
        """on_init: told the kernel's INIT right before it is answered; direct: by opcode (see direct.py)."""
        self._hooks = hooks
        self._on_init = on_init
        self._answers = Answers(hooks, direct or {})
        self._counters = Counters()
        self._table = InFlightTable()
        self._life = Lifecycle(self._look_again)
        self._device = DeviceEnd(device_fd, self._counters, self._life.end)
        self._libfuse = LibfuseEnd(self.end_session)
        self.session_fd = self._libfuse.session_fd
        self._running = trio.Event()
        self._idle = trio.Event()
        self._tasks: trio.Nursery | None = None
        self._injected = False
        self.muted = False
        self._burst = 0
        self._watched = False  # somebody waits for the device
        self._called = False  # a parked worker was woken to do so
        self._parked = trio.lowlevel.ParkingLot()
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
        return self._life.phase

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
            reason = await self._life.until_ended()
            own.cancel_scope.cancel()
        self.forward_replies()
        return reason

    async def start_fresh(self) -> bytes:
        """Let the kernel's INIT through and answer it; return that request, which resume() will need.

        pyfuse3.main and run() must be running, or come to run. Raises DaemonError when the session ends
        first.
        """
        await self._running.wait()
        self._life.go(Phase.STARTING)
        await self._life.until_serving()
        return self._init_request

    async def resume(self, stored_init: bytes) -> None:
        """Take over a session whose kernel side is long initialised.

        libfuse is shown the stored INIT, its reply goes nowhere; then the kernel is asked for what a dead
        daemon left unanswered. Kernels without NOTIFY_RESEND (< 6.9) answer EINVAL, which statistics()
        reports: then such callers wait until they are killed. Raises like start_fresh.
        """
        await self._running.wait()
        self._life.go(Phase.RESUMING)
        self._inject_init(stored_init)
        await self._life.until_serving()

    async def drain(self, timeout_s: float) -> int:
        """Stop reading the device and wait until all that was read is answered.

        What comes meanwhile stays in the kernel for the successor. Returns how many requests were still in
        flight after timeout_s seconds; these come back to the successor by NOTIFY_RESEND.
        """
        if self._life.phase is Phase.SERVING:
            self._life.go(Phase.DRAINED)
        self._idle = trio.Event()
        if self._table:
            with trio.move_on_after(timeout_s):
                await self._idle.wait()
        return len(self._table)

    def mute(self) -> None:
        """Answer nobody any more: what is still in flight comes back to the successor by NOTIFY_RESEND."""
        self.muted = True

    def undrain(self) -> None:
        """Read the device again, when the successor did not come up."""
        if self._life.phase is Phase.DRAINED:
            self._life.go(Phase.SERVING)

    def end_session(self) -> None:
        """Stop serving without an unmount: wait_for_request() refuses from now on, run() returns."""
        self._life.end(Ended.SESSION_CLOSED)

    def close(self) -> None:
        """Close our end of the socket, after pyfuse3.close() closed the other. The device stays open."""
        self._libfuse.close()

    def find_request(self, token: int) -> Request | None:
        """The request a pyfuse3 handler serves, by its ctx.pid; None once it is answered, or for any pid."""
        return self._table.find(token)

    def statistics(self) -> RelayStatistics:
        """A frozen look at the counters."""
        return self._counters.freeze(
            in_flight=len(self._table),
            oldest_in_flight_ns=self._table.oldest_age_ns(monotonic_ns()),
            resend_supported=self._resend_supported,
            init_flags=self._init_flags,
        )

    def _look_again(self) -> None:
        """The phase changed: whoever waits for a request shall think again."""
        self._device.wake()
        self._parked.unpark_all()

    # -- from the kernel ------------------------------------------------------------------------------

    async def wait_for_request(self) -> None:
        """Return once one more message lies in the socket for libfuse.

        What is not for libfuse is dealt with on the way. Several workers may ask at a time: one of them
        watches the device, the others are parked until hand_over(). Raises trio.ClosedResourceError when
        the session is over, which is what pyfuse3's loop takes as its end.
        """
        self.forward_replies()
        while True:
            if self._injected:
                self._injected = False
                return
            if not self._life.is_reading:
                if self._life.ended is not None:
                    raise trio.ClosedResourceError(self._life.ended.value)
                await self._life.change()
            elif self._watched:
                await self._parked.park()
                self._called = False
            elif self._burst >= _BURST:
                self._burst = 0
                await trio.lowlevel.checkpoint()
            elif (message := self._device.read()) is None:
                await self._watch_device()
            else:
                self._burst += 1
                if (rest := self._take(message)) is not None:
                    if not self._libfuse.send(rest):
                        await self._libfuse.send_later(rest)
                    return

    def hand_over(self) -> None:
        """Let a parked worker watch the device, if nobody does: the last one went off with a request.

        session.py calls this when a worker gave up control, that is, when its handler has to wait.
        """
        if self._parked and not self._watched and not self._called:
            self._called = True
            self._parked.unpark()

    async def _watch_device(self) -> None:
        self._burst = 0
        self._watched = True
        try:
            await self._device.wait()
        finally:
            self._watched = False

    def _take(self, message: memoryview) -> wire.Buffer | None:
        """Deal with one request; returned is what libfuse shall get of it, if anything."""
        try:
            header = wire.request_header(message)
        except wire.WireError:
            if message:
                _log.exception("the kernel sent what is no request")
            return None
        opcode = header.opcode
        self._counters.request(opcode, header.length)
        if opcode in NOTED:
            self._note(opcode, message)
            return None
        if opcode == _INIT:
            self._init_request = bytes(message)
            return negotiate.request_for_libfuse(message)
        entry = self._table.begin(header, monotonic_ns())
        if entry.request.resent:
            self._counters.resent += 1
        if (reply := self._at_once(entry, message)) is not None:
            self._finish(entry, reply)
            return None
        self._table.keep(entry)
        if opcode in self._answers.opcodes:
            self._start(entry, message)
            return None
        if opcode == _SETATTR:
            wire.leave_now_to_us(message)
        wire.stamp(message, entry.token)
        return message

    def _note(self, opcode: int, message: memoryview) -> None:
        self._counters.swallowed += 1
        if opcode == Opcode.INTERRUPT:
            self._counters.interrupted += 1
        try:
            self._answers.note(opcode, message)
        except Exception:
            _log.exception("a hook failed at %s", Opcode(opcode).name)

    # -- answers of our own ---------------------------------------------------------------------------

    def _at_once(self, entry: InFlight, message: memoryview) -> bytes | None:
        try:
            return self._answers.at_once(entry, message)
        except Exception as error:
            return self._refusal(entry, error)

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
        while self._libfuse.owed and self._forward_one():
            pass

    def _forward_one(self) -> bool:
        reply = self._libfuse.receive()
        if reply is None:
            return False
        try:
            header = wire.reply_header(reply)
        except wire.WireError:
            _log.exception("libfuse wrote what is no reply")
            return True
        entry = self._table.get(header.unique)
        if entry is None:
            self._unowed(header, reply)
            return True
        self._libfuse.owed -= 1
        if header.error == 0 and entry.opcode in _PATCHED:
            self._finish(entry, self._patched(entry, reply))
        else:
            self._finish(entry, reply)
        return True

    def _unowed(self, header: wire.ReplyHeader, reply: memoryview) -> None:
        """A notification of libfuse's own, or the INIT reply, which no table entry stands for."""
        if header.unique == 0:
            self._device.write(reply)
        elif self._life.phase in (Phase.STARTING, Phase.RESUMING):
            self._libfuse.owed -= 1
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
        if not self.muted:
            self._device.write(reply)
        self._table.pop(entry.raw_unique)
        self._counters.reply(entry.opcode, monotonic_ns() - entry.started_ns)
        if not self._table:
            self._idle.set()

    # -- INIT -----------------------------------------------------------------------------------------

    def _inject_init(self, request: bytes) -> None:
        self._init_request = request
        self._libfuse.send(negotiate.request_for_libfuse(request))
        self._injected = True
        self._life.stir()

    def _init_answered(self, reply: memoryview) -> None:
        answer = negotiate.reply_for_kernel(reply, self._init_request)
        self._init_flags = negotiate.accepted(answer)
        if self._life.phase is Phase.STARTING:
            self._on_init(self._init_request)
            self._device.write(answer)
        else:
            self._counters.swallowed += 1
            self._resend_supported = self._device.ask_for_resend()
        self._life.go(Phase.SERVING)

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
            await self._libfuse.wait()
            while self._forward_one():
                pass
