"""Gives back what a run has taken, also when it was interrupted: processes, mounts, the directory.

Everything a run starts has the run's directory in its command line or environment, everything it mounts is
mounted inside; so nobody else's processes and mounts are ever touched. Called by rig.Bench only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

from guestmemfs_fuse.linux import mount, mountinfo, process

_GONE_WITHIN_S = 10.0
_POLL_S = 0.02


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
