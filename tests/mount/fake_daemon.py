"""A daemon without a filesystem: what tests/mount/test_holder.py has the holder start.

`fake_daemon.py STATE_DIR` keeps two memfds in the store, "fuse" and "region-1", and appends one JSON line
to STATE_DIR/starts each time it is ready. STATE_DIR/behaviour, one word, says what it does instead.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from guestmemfs_fuse.core.errors import OutOfMemoryError
from guestmemfs_fuse.handover import fdnames
from guestmemfs_fuse.handover.fdstore import Notifier, received_fds
from guestmemfs_fuse.handover.spawn import spawn

REGION = "region-1"


def make_fds(notifier: Notifier, fds: dict[str, list[int]], names: tuple[str, ...]) -> None:
    """What the store does not have yet is made, and stored before it counts."""
    for name in names:
        if name not in fds:
            fd = os.memfd_create(name)
            os.write(fd, os.urandom(16).hex().encode())
            fds[name] = [fd]
            notifier.store(name, fd)
    notifier.barrier()


def report(state_dir: Path, fds: dict[str, list[int]]) -> None:
    """One line for the test to read, written in one piece."""
    content = {name: [os.pread(fd, 64, 0).decode() for fd in found] for name, found in fds.items()}
    line = json.dumps({"pid": os.getpid(), "ppid": os.getppid(), "content": content}) + "\n"
    fd = os.open(state_dir / "starts", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(fd, line.encode())


def hand_over(notifier: Notifier, fds: dict[str, list[int]], argv: list[str], *, stay: bool) -> None:
    """Start the next daemon with our descriptors, name it, and go (or hang instead)."""
    flat = [(name, fd) for name, found in fds.items() for fd in found]
    pid = spawn([*argv, "successor"], os.environ, flat, (0, 1, 2))
    notifier.main_pid(pid)
    notifier.barrier()
    while stay:
        signal.pause()
    os._exit(0)


def main() -> None:
    state_dir = Path(sys.argv[1])
    behaviour = (state_dir / "behaviour").read_text() if (state_dir / "behaviour").exists() else ""
    fds = received_fds()
    notifier = Notifier.from_environment()
    match behaviour:
        case "crash":
            print("line before the crash", file=sys.stderr)
            os._exit(3)
        case "refuse":
            print("a line in the log", file=sys.stderr)
            notifier.failed(OutOfMemoryError("4 GiB wanted, 1 GiB free", hint="ask for less"))
            os._exit(7)
        case "hang":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            make_fds(notifier, fds, (fdnames.FUSE, REGION))
            print("hanging", file=sys.stderr, flush=True)
            while True:
                signal.pause()
    slow, come_back = behaviour == "slow stop", behaviour == "come back"
    names = (fdnames.FUSE,) if behaviour == "no region" else (fdnames.FUSE, REGION)
    argv = [sys.executable, os.path.abspath(__file__), str(state_dir)]
    orders: dict[int, Callable[[], None]] = {
        signal.SIGTERM: lambda: stop(notifier, slow=slow, come_back=come_back),
        signal.SIGUSR1: lambda: hand_over(notifier, fds, argv, stay=behaviour == "former stays"),
        signal.SIGUSR2: lambda: print("a line from the daemon", file=sys.stderr, flush=True),
        signal.SIGHUP: lambda: entrust(notifier, fds, ready=behaviour != "never ready"),
    }
    if behaviour == "lost successor" and "successor" not in sys.argv:
        orders[signal.SIGUSR1] = lambda: lose_successor(notifier)
    # Blocked and waited for: a handler would be missed when its signal comes just before pause(2).
    signal.pthread_sigmask(signal.SIG_BLOCK, orders)
    make_fds(notifier, fds, names)
    report(state_dir, fds)
    notifier.ready()
    while True:
        orders[signal.sigwait(orders)]()


def entrust(notifier: Notifier, fds: dict[str, list[int]], *, ready: bool) -> None:
    """Give everything to a new holder, which listens where the old one did."""
    for name, found in fds.items():
        notifier.store(name, *found)
    notifier.barrier()
    if ready:
        notifier.ready()


def stop(notifier: Notifier, *, slow: bool, come_back: bool) -> None:
    """As umount does: say so, clean up, end with status 0."""
    notifier.stopping()
    if slow:
        time.sleep(0.5)
    os._exit(75 if come_back else 0)


def lose_successor(notifier: Notifier) -> None:
    """Name a process that is gone already, and end content."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    notifier.main_pid(pid)
    os._exit(0)


if __name__ == "__main__":
    main()
