"""Starting a daemon under a holder, and asking the holder things. The command line's side.

Invariants: a start either ends with a daemon that serves or leaves no process behind; nothing is ever
signalled but what this very start has brought to life (by pidfd) and, for a start that is called off, the
holder that was asked. Blocking. Called by cli/.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import NoReturn

from guestmemfs_fuse.core.errors import DaemonError, GuestmemfsError
from guestmemfs_fuse.core.rebuild import rebuild_error
from guestmemfs_fuse.handover import pid_file
from guestmemfs_fuse.handover.last_words import LastWords, last_line, parse
from guestmemfs_fuse.handover.pid_file import PidFile
from guestmemfs_fuse.handover.restart_policy import ABORT_GRACE_S
from guestmemfs_fuse.handover.short_path import short_path
from guestmemfs_fuse.linux.patience import patient
from guestmemfs_fuse.linux.process import set_child_subreaper
from guestmemfs_fuse.metadata.instance_config import Paths

READY_TIMEOUT_S = patient(7.5)
"""With the grace for ending a daemon that hangs, and our own start, `mount` has its answer within 10 s."""
_CALL_OFF_TIMEOUT_S = ABORT_GRACE_S + 2.0
_SUPERVISION = ("LISTEN_", "NOTIFY_SOCKET", "WATCHDOG_", "FDSTORE")
_HOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "holder.py")


def _nothing() -> None:
    pass


def daemon_argv(state_dir: str) -> list[str]:
    """The command that serves state_dir, with this very interpreter. -P: nothing is imported from /."""
    return [sys.executable, "-P", "-m", "guestmemfs_fuse.daemon", state_dir]


def holder_pid(state_dir: str) -> int | None:
    """The living holder of state_dir, as the kernel names it, or None."""
    return pid_file.owner(Paths(state_dir).holder_pid)


def start_daemon(
    state_dir: str,
    argv: Sequence[str],
    ready_timeout_s: float = READY_TIMEOUT_S,
    *,
    may_keep: bool = False,
    meanwhile: Callable[[], object] = _nothing,
) -> int:
    """Have argv (see daemon_argv) serve state_dir, by the holder that is there or a new one; returns its pid.

    may_keep: see spawn_holder; meanwhile: done while the daemon starts. Raises what the daemon said when it
    refused, else DaemonError; no process of a failed start is left. A holder that was there before stays,
    with what it keeps.
    """
    present = holder_pid(state_dir)
    if present is not None:
        try:
            return _ask_holder(present, state_dir, argv, ready_timeout_s, meanwhile)
        except _HolderGoneError:
            # It was on its way out when we asked: its last daemon had just stopped.
            if not wait_holder_gone(state_dir, _CALL_OFF_TIMEOUT_S):
                raise
    return spawn_holder(state_dir, argv, ready_timeout_s, may_keep=may_keep, meanwhile=meanwhile)


class _HolderGoneError(DaemonError):
    """The holder ended, or was ending, without an answer."""


def _ask_holder(
    present: int,
    state_dir: str,
    argv: Sequence[str],
    ready_timeout_s: float,
    meanwhile: Callable[[], object],
) -> int:
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        packed = b"\0".join(os.fsencode(word) for word in argv).hex()
        _send(state_dir, f"X_GUESTMEMFS_START={packed}", [writer])
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    with _Start(state_dir, reader, ready_timeout_s) as start:
        start.take_lines(b"H%d\n" % present)
        meanwhile()
        start.wait()
    return present


def spawn_holder(
    state_dir: str,
    argv: Sequence[str],
    ready_timeout_s: float = READY_TIMEOUT_S,
    *,
    may_keep: bool = False,
    meanwhile: Callable[[], object] = _nothing,
) -> int:
    """Start a holder that starts argv for state_dir; returns the holder's pid once the daemon is ready.

    may_keep: after a start that failed the holder may live on, with what it keeps (a live update session).
    meanwhile: done while they start.
    Raises as start_daemon, and DaemonError when state_dir has a holder already.
    """
    with _begin(state_dir, argv, ready_timeout_s, ours=not may_keep) as start:
        meanwhile()
        start.wait()
        return start.holder


def adopt_daemon(
    state_dir: str, argv: Sequence[str], daemon_pid: int, entrust: Callable[[str, str], object]
) -> int:
    """Start a holder for daemon_pid, whose own was killed; returns the holder's pid once it keeps everything.

    entrust: has the daemon give its descriptors; gets the path of the new log and the new NOTIFY_SOCKET.
    argv: what the holder starts when the daemon dies. Raises what entrust raises, and as spawn_holder; the
    daemon goes on as before then, and the new holder ends.
    """
    with _begin(state_dir, argv, READY_TIMEOUT_S, ours=False, adopted_pid=daemon_pid) as start:
        entrust(*start.wait_for_address())
        start.wait()
        return start.holder


def _begin(
    state_dir: str, argv: Sequence[str], timeout_s: float, *, ours: bool, adopted_pid: int = 0
) -> _Start:
    """Have a new process become the holder."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    try:
        child = os.fork()
        if child == 0:
            _double_fork(os.path.abspath(state_dir), argv, writer, adopted_pid)
    except BaseException:
        os.close(reader)
        raise
    finally:
        os.close(writer)
    os.waitpid(child, 0)
    return _Start(state_dir, reader, timeout_s, ours=ours)


def drop_kept(state_dir: str) -> None:
    """Have the holder close every descriptor it keeps: guest memory of a memfd region is gone with that.

    Only for destroy, with the daemon stopped; the holder ends then (wait_holder_gone). Does nothing without
    a holder. Raises DaemonError when the holder cannot be reached.
    """
    if holder_pid(state_dir) is not None:
        _send(state_dir, "X_GUESTMEMFS_DROP=1")


def wait_holder_gone(state_dir: str, timeout_s: float) -> bool:
    """Wait until state_dir has no holder; False when it still has one after timeout_s."""
    deadline_s = time.monotonic() + timeout_s
    while (pid := holder_pid(state_dir)) is not None:
        with suppress(ProcessLookupError):
            pidfd = os.pidfd_open(pid)
            try:
                if not _readable(pidfd, deadline_s):
                    return False
            finally:
                os.close(pidfd)
    return True


# -- the start's two ends --------------------------------------------------------------------------------


def _double_fork(state_dir: str, argv: Sequence[str], writer: int, adopted_pid: int) -> NoReturn:
    """In the first child: start the holder and end, so that the holder is no child of ours."""
    try:
        os.setsid()
        if os.fork() == 0:
            _become_holder(state_dir, argv, writer, adopted_pid)
        os._exit(0)
    except OSError as error:
        why = "another one is there" if isinstance(error, BlockingIOError) else error.strerror
        words = LastWords(f"the holder cannot start: {why} ({error.filename or state_dir})")
        os.write(writer, f"E{words}".encode(errors="replace"))
    finally:
        os._exit(1)


def _become_holder(state_dir: str, argv: Sequence[str], writer: int, adopted_pid: int) -> NoReturn:
    """In the second child. Raises OSError.

    Until the exec it shares its command's claim on the state directory (cli/claim.py), and by then it has its
    pid file: whoever has the claim next sees it, even if the command was killed meanwhile.
    """
    os.write(writer, b"H%d\n" % os.getpid())
    # Not passed on by fork, but kept across exec (PR_SET_CHILD_SUBREAPER, prctl(2)).
    set_child_subreaper()
    mine = PidFile(Paths(state_dir).holder_pid)
    for fd in (writer, mine.fd):
        os.set_inheritable(fd, True)
    numbers = (str(number) for number in (writer, mine.fd, adopted_pid))
    command = [sys.executable, "-I", "-S", _HOLDER, state_dir, *numbers, "--", *argv]
    os.execve(command[0], command, _environment(os.environ))


def _environment(env: Mapping[str, str]) -> dict[str, str]:
    """Without what our own supervisor told us: the holder is the daemon's."""
    return {key: value for key, value in env.items() if not key.startswith(_SUPERVISION)}


class _Start:
    """The reading end of what handover/starter.py writes. Without R it cleans up."""

    def __init__(self, state_dir: str, reader: int, timeout_s: float, *, ours: bool = False) -> None:
        self._paths = Paths(state_dir)
        self._reader = reader
        self._timeout_s = timeout_s
        self._deadline_s = time.monotonic() + timeout_s
        self._ours = ours  # whether the holder is: then it may be killed
        self._pidfds: list[int] = []  # the holder's first
        self._data = b""
        self._ready = False
        self._over = False  # the holder hung up
        self._address: tuple[str, str] | None = None
        self.holder = 0

    def wait_for_address(self) -> tuple[str, str]:
        """(path of the log, NOTIFY_SOCKET) of a holder that adopts. Raises GuestmemfsError."""
        while self._address is None and not self._over and _readable(self._reader, self._deadline_s):
            self._read_more()
        if self._address is None:
            self.wait()
            raise _HolderGoneError("the holder adopts nobody", hint=self._hint())
        return self._address

    def wait(self) -> None:
        """Return once the daemon is ready. Raises GuestmemfsError otherwise."""
        if self._read_until(self._deadline_s) == b"R":
            self._ready = True
            return
        late = not self._over
        if late:
            self._call_off()
        if self._data[:1] == b"E":
            words = parse(self._data[1:].decode(errors="replace"))
        elif late:
            words = LastWords("")
        else:
            raise _HolderGoneError("the holder ended without a word", hint=self._hint())
        if late:
            words.reason = f"the daemon was not ready within {self._timeout_s:g} s"
        raise self._failure(words)

    def _read_until(self, deadline_s: float) -> bytes:
        """Read to R, the end, or the deadline; what there is so far without the pids."""
        while not self._over and self._data != b"R" and _readable(self._reader, deadline_s):
            self._read_more()
        return self._data

    def _read_more(self) -> None:
        more = os.read(self._reader, 1 << 16)
        self._over = not more
        self._data = self.take_lines(self._data + more)

    def take_lines(self, data: bytes) -> bytes:
        """Remember the processes that data names, the holder first, and the address; returns what follows."""
        while data[:1] in (b"H", b"D", b"A") and b"\n" in data:
            line, _newline, data = data.partition(b"\n")
            if line[:1] == b"A":
                log_fd, address = line[1:].decode().split(" ")
                self._address = f"/proc/{self.holder}/fd/{log_fd}", os.fsdecode(bytes.fromhex(address))
                continue
            if line[:1] == b"H":
                self.holder = int(line[1:])
            with suppress(ProcessLookupError):
                self._pidfds.append(os.pidfd_open(int(line[1:])))
        return data

    def _hint(self) -> str:
        return f"{self._paths.daemon_log} has the rest"

    def _failure(self, words: LastWords) -> GuestmemfsError:
        error: GuestmemfsError
        if words.class_name:
            error = rebuild_error(words.class_name, words.message, words.hint or None)
        else:
            last = last_line(words.tail)
            message = f"{words.reason}: {last}" if last else words.reason
            error = DaemonError(message, hint=self._hint())
        if words.tail:
            error.add_note(words.tail)
        return error

    def __enter__(self) -> _Start:
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            if not self._ready:
                self._clean_up()
        finally:
            for fd in (self._reader, *self._pidfds):
                os.close(fd)

    def _call_off(self) -> None:
        """Have the holder end the daemon, tell its last words and hang up."""
        if self._pidfds and not self._over:
            _signal(self._pidfds[0], signal.SIGTERM)
            self._read_until(time.monotonic() + _CALL_OFF_TIMEOUT_S)

    def _clean_up(self) -> None:
        """Whatever this start has begun ends, by force where the holder does not see to it or was killed."""
        self._call_off()
        if self._ours and self._pidfds:
            _readable(self._pidfds[0], time.monotonic() + 1.0)
            for pidfd in self._pidfds:
                _signal(pidfd, signal.SIGKILL)
                _readable(pidfd, time.monotonic() + 1.0)


def _signal(pidfd: int, number: int) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


def _readable(fd: int, deadline_s: float) -> bool:
    """Wait until fd can be read, or has ended; False when the deadline passed."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(max(0.0, deadline_s - time.monotonic()) * 1000))


def _send(state_dir: str, text: str, fds: Sequence[int] = ()) -> None:
    try:
        with (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
            short_path(Paths(state_dir).notify_sock) as address,
        ):
            sender.settimeout(_CALL_OFF_TIMEOUT_S)
            sender.connect(address)
            socket.send_fds(sender, [text.encode()], list(fds))
    except (FileNotFoundError, ConnectionRefusedError) as error:
        raise _HolderGoneError("the holder is gone") from error
    except OSError as error:
        raise DaemonError(f"the holder cannot be reached: {error.strerror or error}") from error
