"""Finds, and ends, what a test left behind: processes and mounts that belong to a directory of ours.

Everything a test starts inherits an environment that names its private directory, or has it in its command
line; everything it mounts is mounted inside or comes from there. So other people's daemons and mounts,
of a test run beside this one for instance, are never looked at twice. Called by conftest and fixtures.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from guestmemfs_fuse.linux import mountinfo, process

# Ending takes its time on a busy host; only a leak ever costs all of this.
GONE_WITHIN_S = float(os.environ.get("GUESTMEMFS_TEST_PATIENCE_S", "15"))
POLL_S = 0.02
MNT_DETACH = 2


@dataclass(frozen=True, slots=True)
class Leftovers:
    """What still belongs to a directory: pids with their command lines, and mountpoints, topmost first."""

    processes: tuple[tuple[int, str], ...]
    mountpoints: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.processes or self.mountpoints)

    def lines(self) -> list[str]:
        """One line for each."""
        return [f"process {pid}: {command}" for pid, command in self.processes] + [
            f"mount: {mountpoint}" for mountpoint in self.mountpoints
        ]


def find(directory: Path) -> Leftovers:
    """Everything that belongs to `directory` now."""
    return Leftovers(tuple(_processes(str(directory))), tuple(_mountpoints(str(directory))))


def wait_gone(directory: Path, timeout_s: float = GONE_WITHIN_S) -> Leftovers:
    """Wait until nothing belongs to `directory` any more; what still does after timeout_s seconds."""
    deadline = time.monotonic() + timeout_s
    while (found := find(directory)) and time.monotonic() < deadline:
        time.sleep(POLL_S)
    return found


def sweep(directory: Path) -> Leftovers:
    """End every process and detach every mount that belongs to `directory`; what was found at first."""
    found = find(directory)
    for _ in range(3):  # a holder may have started its daemon anew meanwhile
        now = find(directory)
        for pid, _command in now.processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for mountpoint in now.mountpoints:
            _detach(mountpoint)
        if not wait_gone(directory, 1.0):
            break
    return found


def remove_directory(directory: Path) -> None:
    """Remove a directory tree, unless something is still mounted in it: those files are not ours."""
    if not find(directory).mountpoints:
        shutil.rmtree(directory, ignore_errors=True)


def _processes(token: str) -> list[tuple[int, str]]:
    wanted = os.fsencode(token)
    found = []
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            command = Path(f"/proc/{name}/cmdline").read_bytes()
            environment = Path(f"/proc/{name}/environ").read_bytes()
        except OSError:
            continue
        if wanted in command + b"\0" + environment and process.is_alive(int(name)):
            found.append((int(name), command.replace(b"\0", b" ").decode(errors="replace").strip()))
    return found


def _mountpoints(token: str) -> list[str]:
    inside = [
        mount.mountpoint
        for mount in mountinfo.read_mounts()
        if mount.mountpoint == token or mount.mountpoint.startswith(token + "/") or token in mount.source
    ]
    return inside[::-1]


def _detach(mountpoint: str) -> None:
    # umount(8) would stat the mountpoint and wait for a daemon that is dead.
    ctypes.CDLL(None).umount2(os.fsencode(mountpoint), MNT_DETACH)
