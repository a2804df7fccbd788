"""Replacing a running daemon: the old process starts the new one and steps aside once it is warm.

    predecessor                               successor
    Successor.start(argv, fds, env)  ---->    Handover.from_received(fds): imports, reads what it may
    await warm(timeout_s)            <-W--    say_warm()
    drain
    await give(fds)                  <-F,A->  await_go() keeps them in `given`
    MAINPID=, release the lock
    go(Word)                         --G...>  await_go() returns it: takes the lock, serves, READY=1
    exit                                      (None: the predecessor gave up or died; exit silently)

Until it is warm the successor's stderr is kept by the predecessor, to tell why it failed; from then on it
is the log. Invariants: a successor that was not told to go never serves, and ends; the predecessor's
descriptors stay its own and open; after go() the successor is left alone.
Called by daemon.py, on both sides.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
from array import array
from collections.abc import AsyncGenerator, Mapping, MutableMapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

import trio

from guestmemfs_fuse.core.errors import DaemonError
from guestmemfs_fuse.handover import fdnames
from guestmemfs_fuse.handover.last_words import last_line
from guestmemfs_fuse.handover.spawn import spawn

_WARM = b"W"
_FDS = b"F"
_GOT_THEM = b"A"
_GO = b"G"
_WORD = struct.Struct("<?q")
_FDS_AT_ONCE = 250
"""SCM_MAX_FD of the kernel is 253."""
_PACKET_BYTES = 1 << 16
_END_TIMEOUT_S = 1.0
_TAIL_BYTES = 4000


@dataclass(frozen=True, slots=True)
class Word:
    """What the predecessor says when it steps aside.

    clean: every request it had read is answered and done; drained_ns: when it stopped reading
    (CLOCK_MONOTONIC), from which the longest wait of any caller follows.
    """

    clean: bool
    drained_ns: int


class Successor:
    """The new daemon, as its predecessor sees it."""

    def __init__(self, pid: int, line: socket.socket, stderr_fd: int) -> None:
        self.pid = pid
        self._raw_line = line
        self._line = trio.socket.from_stdlib_socket(line)
        self._pidfd = os.pidfd_open(pid)
        self._stderr_fd = stderr_fd
        self._gone = False

    @classmethod
    @asynccontextmanager
    async def start(
        cls, argv: Sequence[str], fds: Mapping[str, Sequence[int]], env: Mapping[str, str]
    ) -> AsyncGenerator[Successor, None]:
        """Start argv with duplicates of fds, by name; unless go() was called it is ended with the block.

        Our stderr is handed on as the log. Raises DaemonError when no process can be started.
        """
        stderr_fd = os.memfd_create("successor-stderr", os.MFD_CLOEXEC)
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            with theirs:
                flat = [(name, fd) for name, found in fds.items() for fd in found]
                extra = [(fdnames.HANDOVER, theirs.fileno()), (fdnames.HANDOVER_STDERR, 2)]
                try:
                    pid = _spawn(argv, env, flat + extra, stderr_fd)
                except OSError as error:
                    ours.close()
                    raise DaemonError(f"no new daemon can be started: {error.strerror}") from error
            successor = cls(pid, ours, stderr_fd)
            try:
                yield successor
            finally:
                await successor._close()
        finally:
            os.close(stderr_fd)

    async def warm(self, timeout_s: float) -> None:
        """Return once it can take over at a word. Raises DaemonError, with its last words, otherwise."""
        said = None
        with trio.move_on_after(timeout_s), suppress(OSError):
            said = await self._line.recv(1)
        if said == _WARM:
            return
        if said is None:
            how = f"was not ready to take over within {timeout_s:g} s"
        else:
            how = await self._how_it_ended()
        raise self._failure(how)

    async def give(self, fds: Mapping[str, Sequence[int]]) -> None:
        """Hand over duplicates of descriptors that could change until now, and wait until it has them.

        Raises DaemonError when it is dead: the caller can go on serving.
        """
        flat = [(name, fd) for name, found in fds.items() for fd in found]
        try:
            for first in range(0, len(flat) + 1, _FDS_AT_ONCE):  # the last packet is not a full one
                batch = flat[first : first + _FDS_AT_ONCE]
                names = _FDS + "\0".join(name for name, _ in batch).encode()
                rights = array("i", [fd for _, fd in batch])
                await self._line.sendmsg([names], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
            said = await self._line.recv(1)
        except OSError as error:
            raise self._failure("died before it took over") from error
        if said != _GOT_THEM:
            raise self._failure("died before it took over")

    def go(self, word: Word) -> None:
        """It is the daemon now. Call with the lock released, then exit.

        Raises DaemonError when it is dead: nothing was handed over then. Where MAINPID was sent already the
        caller may exit non-zero and be started again, or say MAINPID= with its own pid and go on.
        """
        try:
            # Into an empty buffer: never waits.
            self._raw_line.send(_GO + _WORD.pack(word.clean, word.drained_ns))
        except OSError as error:
            raise self._failure("died before it took over") from error
        self._gone = True

    def _failure(self, how: str) -> DaemonError:
        tail = os.pread(self._stderr_fd, _TAIL_BYTES, max(0, os.fstat(self._stderr_fd).st_size - _TAIL_BYTES))
        text = tail.decode(errors="replace").strip()
        last = last_line(text)
        error = DaemonError(
            f"the new daemon {how}" + (f": {last}" if last else ""), hint="the old one goes on serving"
        )
        if text:
            error.add_note(text)
        return error

    async def _how_it_ended(self) -> str:
        with trio.move_on_after(_END_TIMEOUT_S):
            await trio.lowlevel.wait_readable(self._pidfd)
        ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return "hung up"
        killed = ended.si_code != os.CLD_EXITED
        return (
            f"was killed by signal {ended.si_status}" if killed else f"exited with status {ended.si_status}"
        )

    async def _close(self) -> None:
        """Hang up, which ends it; a successor that was let go keeps running."""
        self._line.close()
        try:
            if self._gone:
                return
            with trio.CancelScope(shield=True):
                with trio.move_on_after(_END_TIMEOUT_S):
                    await trio.lowlevel.wait_readable(self._pidfd)
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
                await trio.lowlevel.wait_readable(self._pidfd)
                with suppress(ChildProcessError):
                    os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        finally:
            os.close(self._pidfd)


def _spawn(
    argv: Sequence[str], env: Mapping[str, str], fds: Sequence[tuple[str, int]], stderr_fd: int
) -> int:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        return spawn(argv, env, fds, (null, stderr_fd, stderr_fd))
    finally:
        os.close(null)


class Handover:
    """The predecessor, as its successor sees it. Blocking: nothing else happens before the word to go."""

    def __init__(self, line: socket.socket, log_fd: int) -> None:
        self._line = line
        self._log_fd = log_fd
        self.given: dict[str, list[int]] = {}

    @classmethod
    def from_received(cls, fds: MutableMapping[str, list[int]]) -> Handover | None:
        """Take what belongs to a handover out of received_fds(); None when this is an ordinary start."""
        lines, logs = fds.pop(fdnames.HANDOVER, []), fds.pop(fdnames.HANDOVER_STDERR, [])
        if len(lines) != 1 or len(logs) != 1:
            for fd in lines + logs:
                os.close(fd)
            return None
        return cls(socket.socket(fileno=lines[0]), logs[0])

    def say_warm(self) -> None:
        """Everything slow is done. From here on stdout and stderr are the log."""
        for standard in (1, 2):
            os.dup2(self._log_fd, standard)
        os.close(self._log_fd)
        with suppress(OSError):
            self._line.sendall(_WARM)  # a predecessor that is gone is noticed by await_go

    def await_go(self) -> Word | None:
        """Wait for the word; None when it will not come and this process is to exit silently.

        Descriptors that come before it are in `given` afterwards, by name.
        """
        with self._line, suppress(OSError):
            while packet := self._receive():
                if packet[:1] == _GO:
                    return Word(*_WORD.unpack(packet[1:]))
        return None

    def _receive(self) -> bytes:
        """The next packet; its descriptors are taken in. Empty: the predecessor is gone."""
        room = socket.CMSG_SPACE(_FDS_AT_ONCE * array("i").itemsize)
        packet, ancillary, _, _ = self._line.recvmsg(_PACKET_BYTES, room, socket.MSG_CMSG_CLOEXEC)
        fds = array("i")
        for _, _, data in ancillary:
            fds.frombytes(data)
        if packet[:1] == _FDS:
            for name, fd in zip(packet[1:].decode().split("\0"), fds, strict=False):
                self.given.setdefault(name, []).append(fd)
            if len(fds) < _FDS_AT_ONCE:
                self._line.sendall(_GOT_THEM)
        return packet
