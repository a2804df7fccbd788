"""A FORGET that a daemon had read dies with it: the next one finds out by itself what nobody uses any more.

The window is microseconds wide, so the test is the dying daemon itself: it stops the real one, takes its
connection, and reads what the kernel says there. And FORGETs that a daemon must not die of.
"""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from guestmemfs_fuse.fuse import abi, wire
from guestmemfs_fuse.linux import libc
from tests.cli import Instance
from tests.mount.load_crew import kill, serving_pid

MIB = 1 << 20


@contextmanager
def stopped(instance: Instance) -> Iterator[int]:
    """The daemon stands still; its connection is ours. Killed at the end, and another one serves."""
    pid = serving_pid(instance.state_dir)
    os.kill(pid, signal.SIGSTOP)
    try:
        pidfd = os.pidfd_open(pid)
        number = next(
            int(entry.name)
            for entry in Path(f"/proc/{pid}/fd").iterdir()
            if os.readlink(entry) == "/dev/fuse"
        )
        device_fd = libc.syscall("pidfd_getfd", pidfd, number, 0)
        os.close(pidfd)
        try:
            yield device_fd
        finally:
            os.close(device_fd)
    finally:
        kill(pid)
    serving_pid(instance.state_dir, not_pid=pid)


def swallow_forget(device_fd: int, ino: int) -> None:
    """Read until the kernel has forgotten ino; a RELEASE on the way is answered, for FORGET waits for it."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if not select.select([device_fd], [], [], 0.5)[0]:
            continue
        message = os.read(device_fd, abi.REQUEST_BUFFER_BYTES)
        header = wire.request_header(message)
        if header.opcode == abi.Opcode.RELEASE:
            os.write(device_fd, wire.error_reply(header.unique, 0))
        forgets = header.opcode in (abi.Opcode.FORGET, abi.Opcode.BATCH_FORGET)
        if forgets and ino in wire.forgotten_nodeids(message):
            return
    raise AssertionError(f"the kernel did not forget {ino}")


def test_regression_memory_of_a_removed_file_is_free_though_its_forget_died_with_the_daemon(
    instance: Instance,
) -> None:
    """What the last requests had changed was spared for the next daemon's whole life: its memory with it."""
    path = instance.mountpoint / "ram"
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 4 * MIB)
    path.unlink()
    ino = os.fstat(fd).st_ino
    with stopped(instance) as device_fd:
        os.close(fd)
        swallow_forget(device_fd, ino)
    status = instance.status()
    assert status["region"]["used_bytes"] == 0
    assert status["counters"]["orphans"] == 0
    assert status["files"] == []


def test_regression_directories_forgotten_twice_in_a_moment_do_not_end_the_daemon(instance: Instance) -> None:
    """The kernel drops its cache, looks the name up again to remove it, and drops it again: two FORGETs
    within the few milliseconds in which they are gathered."""
    pid = serving_pid(instance.state_dir)
    for number in range(30):
        path = instance.mountpoint / f"d{number}"
        path.mkdir()
        Path("/proc/sys/vm/drop_caches").write_text("2")
        path.rmdir()
    (instance.mountpoint / "after").mkdir()
    assert serving_pid(instance.state_dir) == pid
