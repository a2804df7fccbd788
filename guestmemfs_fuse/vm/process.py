"""Starting a VMM that outlives us, and waiting for one to end. Used by `save` and `restore`.

A VMM is known by its pidfd, so a pid that was reused meanwhile is never waited for, let alone killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from guestmemfs_fuse.vm.errors import MonitorError

LAST_WORDS_BYTES = 2000


@contextmanager
def watched(pid: int) -> Iterator[int]:
    """A pidfd of process `pid`, closed at the end. Raises MonitorError when there is no such process."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as error:
        raise MonitorError(f"process {pid} is gone") from error
    try:
        yield pidfd
    finally:
        os.close(pidfd)


async def has_ended(pidfd: int, *, timeout_s: float) -> bool:
    """Wait up to timeout_s seconds for a process to end; whether it did."""
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(pidfd, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), timeout_s)
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)
    return True


async def kill(pidfd: int, *, timeout_s: float) -> None:
    """SIGKILL a process and wait for its end; one that is gone already is fine."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    await has_ended(pidfd, timeout_s=timeout_s)


async def end(pid: int, *, timeout_s: float) -> None:
    """Like `kill`, for a process known by its pid that cannot have been reaped yet, or is ours to end."""
    with contextlib.suppress(MonitorError), watched(pid) as pidfd:
        await kill(pidfd, timeout_s=timeout_s)


def start(command: Sequence[str], *, directory: str, log_path: Path) -> subprocess.Popen[bytes]:
    """Start a VMM in a session of its own, its output going to log_path. Raises OSError."""
    with open(log_path, "wb") as log:
        return subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def command_of(pid: int) -> tuple[tuple[str, ...], str]:
    """The arguments a process was started with, and its working directory. Raises OSError."""
    raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    arguments = tuple(os.fsdecode(part) for part in raw.rstrip(b"\0").split(b"\0"))
    return arguments, os.readlink(f"/proc/{pid}/cwd")


def last_words(log_path: Path) -> str:
    """The end of a VMM's output on one line, or "" when it said nothing."""
    try:
        raw = log_path.read_bytes()[-LAST_WORDS_BYTES:]
    except OSError:
        return ""
    return "; ".join(line.strip() for line in raw.decode(errors="replace").splitlines() if line.strip())
