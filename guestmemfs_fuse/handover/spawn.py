"""Starting a daemon process with descriptors, the way systemd does it (sd_listen_fds(3)).

Used by the holder (start, restart) and by a running daemon (its successor). Standard library only, little of
it: the holder imports this.

Invariants: the child has exactly descriptors 0, 1, 2 and the given ones from 3 on. No signal that arrives
between fork and exec is lost to the child.
"""

from __future__ import annotations

import fcntl
import os
import signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import NoReturn

FIRST_FD = 3
"""SD_LISTEN_FDS_START, sd_listen_fds(3)."""
EXEC_FAILED = 127


def listen_environment(env: Mapping[str, str], names: Sequence[str], pid: int) -> dict[str, str]:
    """env with the LISTEN_* variables for descriptors of these names, in their order, for process pid."""
    result = {key: value for key, value in env.items() if not key.startswith("LISTEN_")}
    if names:
        result["LISTEN_PID"] = str(pid)
        result["LISTEN_FDS"] = str(len(names))
        result["LISTEN_FDNAMES"] = ":".join(names)
    return result


def spawn(
    argv: Sequence[str],
    env: Mapping[str, str],
    fds: Sequence[tuple[str, int]],
    stdio: tuple[int, int, int],
) -> int:
    """Start argv (its first word an absolute path) in / and return its pid; the caller reaps it.

    fds: (name, fd) in the order the child gets them, from descriptor 3 on; stdio: what becomes 0, 1 and 2.
    A command that cannot be executed says so on its stderr and exits with EXEC_FAILED. Raises OSError when
    there can be no new process.
    """
    # Signals wait until the child has none of our handlers left (and its exec's effect is settled).
    before = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    try:
        pid = os.fork()
        if pid:
            return pid
        _become(argv, env, fds, stdio)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def how_ended(code: int | None) -> str:
    """What became of a process, for the log. code: as os.waitstatus_to_exitcode; None: no child of ours."""
    if code is None:
        return "ended, and nobody saw how"
    return f"exited with status {code}" if code >= 0 else f"was killed by signal {-code}"


def _become(
    argv: Sequence[str],
    env: Mapping[str, str],
    fds: Sequence[tuple[str, int]],
    stdio: tuple[int, int, int],
) -> NoReturn:
    """In the child: never returns. Nothing here may run an exit handler or another thread's cleanup."""
    try:
        # Copies above every target first: a source may have a number that is another one's target.
        above = FIRST_FD + len(fds)
        sources = [*stdio, *(fd for _name, fd in fds)]
        copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in sources]
        for target, copy in enumerate(copies):
            os.dup2(copy, target)
        # The rest is close-on-exec, unless some C library of the daemon's forgot.
        os.closerange(above, os.sysconf("SC_OPEN_MAX"))
        _reset_signals()
        os.chdir("/")
        names = [name for name, _fd in fds]
        os.execve(argv[0], list(argv), listen_environment(env, names, os.getpid()))
    except BaseException as error:
        os.write(2, f"cannot execute {argv[0]}: {error}\n".encode(errors="replace"))
    finally:
        os._exit(EXEC_FAILED)


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in signal.valid_signals():
        if signal.getsignal(number) not in (signal.SIG_DFL, None):
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
