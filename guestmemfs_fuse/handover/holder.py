"""The holder: a tiny process that keeps descriptors and a daemon alive where systemd does not.

Run by path, `python -I -S holder.py STATE_DIR STARTER_FD PID_FD ADOPTED_PID -- DAEMON...`, by
handover/launch.py, which has locked holder.pid in its name and made it a child subreaper (both are kept
across exec): a successor that outlives its predecessor becomes its child. It is the NOTIFY_SOCKET of its
daemon and speaks sd_notify(3) as systemd does, plus what handover/launch.py asks of it (X_GUESTMEMFS_*).

Rules
- A daemon that ends with status 0, or in answer to SIGTERM, was to stop: the mount's descriptor is dropped.
- One that ends otherwise is started again (restart_policy.py); given up, its last words are written down and
  the mount's descriptor is dropped too, since callers would hang on it for ever. Guest memory stays.
- With neither daemon nor descriptors left, the holder ends. So it outlives a stopped `memfd` instance.
- A daemon whose holder was killed can be adopted (ADOPTED_PID, else 0): it is no child of ours, and how it
  or a successor of its making ends is not known; what we start after it is a child again. Called off, also
  by the end of whoever asked for it, that daemon goes on with its own descriptors and we end.
- SIGTERM: ends a start that somebody waits for, otherwise is passed on to the daemon.

Invariants: standard library only and little of it (measured: under 12 MiB); idle means no wake-ups; no
descriptor but its own and those it keeps; whatever is wrong with a message, a disk or a daemon, it goes on.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import sys
import time

if not __package__:
    # Run by path under -I -S: the package is found beside us, after the standard library.
    sys.path.append(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))

from guestmemfs_fuse.handover import fdnames
from guestmemfs_fuse.handover.daemon_log import DaemonLog
from guestmemfs_fuse.handover.detach import detach
from guestmemfs_fuse.handover.fd_keeper import FdKeeper
from guestmemfs_fuse.handover.last_words import LastWords
from guestmemfs_fuse.handover.notify_socket import NotifySocket
from guestmemfs_fuse.handover.pid_file import PidFile
from guestmemfs_fuse.handover.restart_policy import ABORT_GRACE_S, EXIT_COME_BACK, WINDOW_S, RestartPolicy
from guestmemfs_fuse.handover.spawn import how_ended, spawn
from guestmemfs_fuse.handover.starter import Starter

START_TIMEOUT_S = 90.0
"""A restarted daemon that is not ready by then is hung: callers wait for it. systemd's default, too."""
FDSTORE_MAX = 65536


class Holder:
    """The state machine. One turn handles everything that has happened, then waits for the next thing."""

    def __init__(self, notify: NotifySocket, log: DaemonLog, last_words_path: str, argv: list[str]) -> None:
        self._notify = notify
        self._log = log
        self._last_words_path = last_words_path
        self._argv = argv
        self._kept = FdKeeper()
        self._policy = RestartPolicy()
        self._main = 0  # pid of the daemon, 0: none
        self._main_pidfd = -1
        self._formers: dict[int, int] = {}  # pid -> pidfd of daemons that named a successor and still live
        self._said: dict[str, str] = {}  # what the daemon told about a failure
        self._starter = Starter()  # who waits for READY
        # A start that waits for the daemon to have stopped.
        self._next: tuple[list[str], Starter] | None = None
        self._is_adopted = False  # the present daemon, or that its predecessors were
        self._ever_ready = False
        self._is_ready = False  # the present daemon
        self._stopping = False
        self._dropped = False
        self._successor_lost = False
        self._restart_at_s: float | None = None
        self._kill_at_s: float | None = None
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        # We keep the write end too: daemons come and go, the pipe never ends.
        self._stderr, self._daemon_stderr = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._stderr, False)
        fcntl.fcntl(self._daemon_stderr, fcntl.F_SETPIPE_SZ, 1 << 20)
        self._wakeup, wakeup_writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(wakeup_writer, warn_on_full_buffer=False)
        for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        self._poll = select.poll()
        for fd in (self._wakeup, self._stderr, notify.fileno()):
            self._poll.register(fd, select.POLLIN)

    def run(self, starter: Starter, adopted_pid: int = 0) -> None:
        """Start the daemon, or adopt it, and keep it; returns when nothing is left to keep."""
        self._starter = starter
        if adopted_pid:
            self._adopt(adopted_pid)
        else:
            self._start()
        while self._main or self._restart_at_s is not None or len(self._kept):
            ready = self._poll.poll(self._wait_ms())
            try:
                self._turn({fd for fd, _events in ready})
            except Exception as error:
                # A bug of ours must not cost guest memory; the pause is for one that does not go away.
                self._log.note_bug(error)
                time.sleep(1.0)

    def _wait_ms(self) -> float | None:
        times = [each for each in (self._restart_at_s, self._kill_at_s) if each is not None]
        return max(0.0, min(times) - time.monotonic()) * 1000 + 1 if times else None

    def _turn(self, ready: set[int]) -> None:
        # Who it was when poll() said so: numbers of descriptors are used again within a turn.
        ended = self._main if self._main_pidfd in ready else 0
        self._take_signals()
        # First collect the dead, then hear what they said before: a daemon's last act may be FDSTORE.
        dead = self._reap()
        self._hear()
        self._log.drain(self._stderr)
        for pid, status in dead:
            self._ended(pid, status)
        if ended and ended == self._main:
            self._main_ended_unseen()
        if self._starter.has_left(ready):
            # Nobody would go on with the adoption: a holder without the descriptors would pass for one with.
            self._terminate()
        now_s = time.monotonic()
        if self._kill_at_s is not None and now_s >= self._kill_at_s:
            self._log.note(f"daemon {self._main} is not ready in time: killed")
            self._kill_at_s = None
            self._signal_main(signal.SIGKILL)
        if self._restart_at_s is not None and now_s >= self._restart_at_s:
            self._start()

    def _take_signals(self) -> None:
        try:
            signals = os.read(self._wakeup, 4096)
        except BlockingIOError:
            return
        if signal.SIGTERM in signals:
            self._terminate()

    # -- the daemon ------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._restart_at_s = None
        self._said = {}
        self._is_ready = self._is_adopted = False
        self._log.new_daemon()
        env = {**os.environ, "NOTIFY_SOCKET": self._notify.address, "FDSTORE": str(FDSTORE_MAX)}
        stdio = (self._null, self._daemon_stderr, self._daemon_stderr)
        try:
            pid = spawn(self._argv, env, self._kept.all(), stdio)
            self._watch(pid)
        except OSError as error:
            self._failed(f"the daemon could not be started: {error.strerror}")
            return
        self._log.note(f"daemon {pid} started")
        self._kill_at_s = None if self._starter.waits else time.monotonic() + START_TIMEOUT_S
        self._starter.tell(f"D{pid}\n")

    def _adopt(self, pid: int) -> None:
        """Be the holder of a daemon that runs. Whoever waits has it give us what it has, and say READY."""
        # What comes is guest memory from the beginning, however this ends.
        self._is_adopted = self._ever_ready = True
        try:
            self._watch(pid)
        except OSError as error:
            self._fail_start(f"daemon {pid} cannot be adopted: {error.strerror}")
            return
        self._log.note(f"daemon {pid} is being adopted")
        self._starter.watch(self._poll)
        self._starter.tell(f"A{self._daemon_stderr} {os.fsencode(self._notify.address).hex()}\n")

    def _watch(self, pid: int) -> None:
        """Make pid the daemon. Raises OSError when there is no such process."""
        pidfd = os.pidfd_open(pid)
        self._main, self._main_pidfd = pid, pidfd
        self._poll.register(pidfd, select.POLLIN)

    def _unwatch(self) -> int:
        """Make nobody the daemon; returns the pidfd of who it was."""
        pidfd = self._main_pidfd
        self._main, self._main_pidfd = 0, -1
        self._look_away(pidfd)
        return pidfd

    def _look_away(self, pidfd: int) -> None:
        try:
            self._poll.unregister(pidfd)
        except KeyError:
            pass  # _main_ended_unseen was here before

    def _reap(self) -> list[tuple[int, int]]:
        dead: list[tuple[int, int]] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return dead
            if pid == 0:
                return dead
            dead.append((pid, os.waitstatus_to_exitcode(status)))

    def _ended(self, pid: int, code: int | None) -> None:
        if (pidfd := self._formers.pop(pid, -1)) >= 0:
            os.close(pidfd)
        if pid != self._main:
            return
        os.close(self._unwatch())
        self._kill_at_s = None
        how = how_ended(code)
        self._log.note(f"daemon {pid} {how}")
        wanted = self._stopping or self._dropped or (code == 0 and not self._successor_lost)
        self._stopping = self._successor_lost = False
        if self._starter.waits or not (wanted or self._next):
            # SIGKILL is never the daemon's own doing, ready or not: on a busy host it may hit each start.
            by_others = code == -signal.SIGKILL or (self._is_ready and code == EXIT_COME_BACK)
            self._failed(f"the daemon {how}", killed=by_others)
            return
        self._kept.remove(fdnames.FUSE)
        if self._next:
            (self._argv, self._starter), self._next = self._next, None
            self._policy.forget()
            self._restart_at_s = time.monotonic()

    def _main_ended_unseen(self) -> None:
        """The daemon is dead but not (yet) our child: its predecessor has not gone, or is not ours either."""
        self._poll.unregister(self._main_pidfd)
        for pidfd in self._formers.values():
            # It has handed everything over, and only its death lets us learn the status (SIGCHLD follows).
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        if not self._formers:
            self._ended(self._main, 0 if "STOPPING" in self._said else None)

    def _failed(self, reason: str, *, killed: bool = False) -> None:
        if self._starter.waits:
            self._fail_start(reason)
            return
        delay_s = self._policy.died(time.monotonic(), killed=killed)
        if delay_s is not None:
            self._restart_at_s = time.monotonic() + delay_s
            return
        reason = f"given up after {self._policy.deaths} deaths within {WINDOW_S:g} s: {reason}"
        self._log.note(reason)
        self._kept.remove(fdnames.FUSE)
        try:
            with open(self._last_words_path + ".new", "w", encoding="utf-8") as file:
                file.write(str(self._words(reason)))
            os.rename(self._last_words_path + ".new", self._last_words_path)
        except OSError as error:
            self._log.note(f"cannot write {self._last_words_path}: {error.strerror}")

    def _words(self, reason: str) -> LastWords:
        said = self._said
        names = ("X_GUESTMEMFS_ERROR", "STATUS", "X_GUESTMEMFS_HINT")
        error, message, hint = (said.get(name, "") for name in names)
        return LastWords(reason, error, message if error else "", hint, self._log.tail())

    def _terminate(self) -> None:
        if self._starter.waits and self._is_adopted:
            os.close(self._unwatch())  # it goes on as it did, with its own descriptors
            self._kept.clear()
            self._fail_start("the adoption was called off")
            return
        self._stopping = True
        self._restart_at_s = None
        if not self._main:
            self._stopping = False
            self._kept.remove(fdnames.FUSE)
            if self._starter.waits:
                self._fail_start("the start was called off")
            return
        if self._starter.waits:
            self._kill_at_s = time.monotonic() + ABORT_GRACE_S
        self._signal_main(signal.SIGTERM)

    def _signal_main(self, number: int) -> None:
        if self._main_pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._main_pidfd, number)
            except ProcessLookupError:
                pass  # reaped in the next turn

    # -- messages --------------------------------------------------------------------------------------

    def _hear(self) -> None:
        while (heard := self._notify.receive()) is not None:
            message, fds = heard
            # One who sends SIGTERM and then a message means them in this order.
            self._take_signals()
            try:
                self._obey(message, fds)
            except (OSError, ValueError) as error:
                self._log.note(f"message {sorted(message)} failed: {error}")
            finally:
                # What was taken out of the list is kept; the rest, a barrier's for instance, ends here.
                for fd in fds:
                    os.close(fd)

    def _obey(self, message: dict[str, str], fds: list[int]) -> None:
        said = ("STATUS", "STOPPING", "X_GUESTMEMFS_ERROR", "X_GUESTMEMFS_HINT")
        self._said.update({key: message[key] for key in said if key in message})
        name = message.get("FDNAME", "stored")
        if message.get("FDSTORE") == "1" and fdnames.valid(name):
            taken, fds[:] = fds[:], []
            self._kept.store(name, taken)
        if message.get("FDSTOREREMOVE") == "1":
            self._kept.remove(name)
        if "MAINPID" in message:
            self._new_main(int(message["MAINPID"]))
        if message.get("READY") == "1":
            self._ready()
        if message.get("X_GUESTMEMFS_DROP") == "1":
            self._kept.clear()
            # A daemon without its descriptors would begin anew what is being destroyed.
            self._dropped, self._restart_at_s = True, None
        if "X_GUESTMEMFS_START" in message and fds:
            self._start_again(bytes.fromhex(message["X_GUESTMEMFS_START"]), Starter(fds.pop(0)))

    def _new_main(self, pid: int) -> None:
        if pid == self._main:
            return
        former, former_pidfd = self._main, self._main_pidfd
        try:
            self._watch(pid)
        except ProcessLookupError:
            # Its predecessor will end, content; nobody will be there then.
            self._successor_lost = True
            raise
        self._said = {}
        self._is_ready = False
        if former:
            self._look_away(former_pidfd)
            if self._is_adopted:
                os.close(former_pidfd)  # its end would not make the new one our child
            else:
                self._formers[former] = former_pidfd
        self._log.note(f"daemon {pid} takes over from {former}")
        self._kill_at_s = time.monotonic() + START_TIMEOUT_S

    def _ready(self) -> None:
        self._ever_ready = self._is_ready = True
        self._kill_at_s = None
        try:
            os.unlink(self._last_words_path)
        except OSError:
            pass
        self._starter.hang_up("R")

    def _start_again(self, packed_argv: bytes, starter: Starter) -> None:
        argv = [os.fsdecode(word) for word in packed_argv.split(b"\0")]
        if self._main and not self._next and (self._stopping or "STOPPING" in self._said):
            self._next = argv, starter
            return
        if self._main or self._restart_at_s is not None:
            starter.hang_up(f"E{LastWords('a daemon is running already')}")
            return
        self._argv, self._starter = argv, starter
        self._dropped = False
        self._policy.forget()
        self._start()

    def _fail_start(self, reason: str) -> None:
        """The start that somebody waits for failed.

        What a first start stored is nobody's memory yet, unless it came through a kexec: then it is all
        there is of some guests.
        """
        if self._ever_ready or self._kept.has(fdnames.RETRIEVING):
            self._kept.remove(fdnames.FUSE)
        else:
            self._kept.clear()
        self._starter.hang_up(f"E{self._words(reason)}")


# -- the process ---------------------------------------------------------------------------------------


def main(arguments: list[str]) -> int:
    """STATE_DIR STARTER_FD PID_FD ADOPTED_PID -- DAEMON...: hold until nothing is left to hold."""
    state_dir, starter_text, pid_text, adopted_text, _dashes, *argv = arguments
    starter = Starter(int(starter_text))
    pid_file = PidFile(os.path.join(state_dir, "holder.pid"), int(pid_text))
    detach(keep=(int(starter_text), pid_file.fd))
    try:
        notify = NotifySocket(os.path.join(state_dir, "notify.sock"))
        log = DaemonLog(os.path.join(state_dir, "daemon.log"))
        holder = Holder(notify, log, os.path.join(state_dir, "last_words"), argv)
    except OSError as error:
        words = LastWords(f"the holder cannot start: {error.strerror} ({error.filename or state_dir})")
        starter.hang_up(f"E{words}")
        return 1
    holder.run(starter, int(adopted_text))
    notify.unlink()
    pid_file.remove()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
