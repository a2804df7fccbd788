"""Gives back what a run has taken, also when it was interrupted: processes, mounts, the directory.

Everything a run starts has the run's directory in its command line or environment, everything it mounts is
mounted inside; so nobody else's processes and mounts are ever touched. A run holds a lock on its directory
as long as it lives: one that nobody holds belongs to a run that was killed. Called by rig.Bench only.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path

from guestmemfs_fuse.bench import pool
from guestmemfs_fuse.linux import mount, mountinfo, process

PREFIX = "gm-bench-"
_CLAIM = "claimed"
"""In the directory once its lock is held: before that a new run's would look abandoned."""

_GONE_WITHIN_S = 10.0
_POLL_S = 0.02


@contextlib.contextmanager
def claimed(directory: Path) -> Iterator[None]:
    """Hold `directory`, which is new, as a living run's. The kernel lets go of it however the run ends."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        (directory / _CLAIM).touch()
        yield
    finally:
        os.close(fd)


def abandoned(parent: Path) -> Iterator[Path]:
    """Directories of runs in `parent` that are over and could not clean up, each held while it is dealt with.

    Only this user's own: what stands in another's would name processes for us to end.
    """
    for directory in sorted(parent.glob(f"{PREFIX}*")):
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            stack.callback(os.close, fd)
            found = os.fstat(fd)
            if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o022:
                continue
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if (directory / _CLAIM).exists():
                yield directory


def sweep(directory: Path) -> None:
    """End and unmount whatever belongs to `directory`, then remove it."""
    deadline = time.monotonic() + _GONE_WITHIN_S
    # A holder that is killed after its daemon may have started another one: look again.
    while (pids := processes(directory)) and time.monotonic() < deadline:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(_POLL_S)
    for mountpoint in mountpoints(directory):
        with contextlib.suppress(OSError):
            mount.umount(mountpoint, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
    with contextlib.suppress(OSError):
        pool.give_back(directory)
    if not mountpoints(directory):
        shutil.rmtree(directory, ignore_errors=True)


def processes(directory: Path) -> list[int]:
    """Processes, other than this one, that know `directory`."""
    token = os.fsencode(directory)
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            known = Path(f"/proc/{name}/cmdline").read_bytes() + b"\0"
            known += Path(f"/proc/{name}/environ").read_bytes()
            if token in known and process.is_alive(int(name)):
                found.append(int(name))
    return found


def mountpoints(directory: Path) -> list[str]:
    """Mountpoints inside `directory`, topmost first."""
    inside = f"{directory}/"
    return [each.mountpoint for each in mountinfo.read_mounts() if each.mountpoint.startswith(inside)][::-1]
