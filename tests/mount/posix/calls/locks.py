"""Locks, leases, and being told of changes."""

from __future__ import annotations

import fcntl
import os
import select
import struct

from tests.mount.posix.calls import libc


def flock(fd: int, operation: int) -> None:
    """flock(2), never waiting."""
    fcntl.flock(fd, operation | fcntl.LOCK_NB)


F_OFD_SETLK = 37


def lock(fd: int, kind: int, start: int = 0, length: int = 0, *, ofd: bool = False) -> None:
    """fcntl(F_SETLK), or of the open file description."""
    fcntl.fcntl(fd, F_OFD_SETLK if ofd else fcntl.F_SETLK, struct.pack("hhqqi4x", kind, 0, start, length, 0))


def lock_holder(fd: int, kind: int, start: int = 0, length: int = 0) -> tuple[int, int]:
    """fcntl(F_GETLK): the kind of the lock in the way, and whose it is."""
    answer = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack("hhqqi4x", kind, 0, start, length, 0))
    kind, _, _, _, owner = struct.unpack("hhqqi4x", answer)
    return kind, owner


def lease(fd: int, kind: int) -> None:
    """fcntl(F_SETLEASE)."""
    fcntl.fcntl(fd, fcntl.F_SETLEASE, kind)


def inotify(path: str, mask: int) -> int:
    """Watch a path; the handle is the inotify descriptor."""
    fd = libc.checked(libc.lib.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    libc.checked(libc.lib.inotify_add_watch(fd, libc.path(path), mask))
    return fd


def inotify_events(fd: int) -> list[tuple[int, bytes]]:
    """Events that came, as (mask, name)."""
    try:
        data = os.read(fd, 65536)
    except BlockingIOError:
        return []
    found, at = [], 0
    while at < len(data):
        _, mask, _, length = struct.unpack_from("iIII", data, at)
        found.append((mask, data[at + 16 : at + 16 + length].rstrip(b"\0")))
        at += 16 + length
    return found


def polls(fd: int) -> int:
    """poll(2) without waiting: which events are there."""
    poller = select.poll()
    poller.register(fd, select.POLLIN | select.POLLOUT)
    return poller.poll(0)[0][1]
