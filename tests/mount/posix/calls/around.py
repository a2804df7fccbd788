"""What the kernel offers around a filesystem: event queues, watches, flags, views and layers of it."""

from __future__ import annotations

import array
import ctypes
import fcntl
import os
import select
import signal
import struct

from tests.mount.posix.calls import libc

SYS_STATX, SYS_OPEN_TREE, SYS_MOUNT_SETATTR = 332, 428, 442
FS_IOC_GETFLAGS = 0x80086601
F_ADD_SEALS = 1033
FAN_REPORT_DIR_FID, FAN_REPORT_FID, FAN_MARK_ADD = 0x400, 0x200, 1
AT_EMPTY_PATH = 0x1000
CLONE_NEWUSER = 0x10000000
OPEN_TREE_CLONE = 1
MOUNT_ATTR_IDMAP = 0x00100000
MNT_DETACH = 2


def epolls(fd: int) -> None:
    """epoll_ctl(2): add a descriptor to a queue of events."""
    with select.epoll() as queue:
        queue.register(fd, select.EPOLLIN)


def birth_is_known(path: str) -> bool:
    """Whether statx(2) fills in the time of birth."""
    answer = ctypes.create_string_buffer(256)
    libc.checked(libc.lib.syscall(SYS_STATX, libc.AT_FDCWD, libc.path(path), 0, 0x800, answer))
    return bool(struct.unpack_from("I", answer)[0] & 0x800)


def flags_of(fd: int) -> int:
    """ioctl(2) FS_IOC_GETFLAGS, what lsattr(1) shows."""
    flags = array.array("l", [0])
    fcntl.ioctl(fd, FS_IOC_GETFLAGS, flags)
    return flags[0]


def seals(fd: int) -> None:
    """fcntl(2) F_ADD_SEALS."""
    fcntl.fcntl(fd, F_ADD_SEALS, 1)


def watches(path: str, mark: int, mask: int) -> None:
    """fanotify_mark(2) on an inode (0) or on its filesystem (0x100), with file handles in the events."""
    queue = libc.checked(libc.lib.fanotify_init(FAN_REPORT_FID | FAN_REPORT_DIR_FID, os.O_RDONLY))
    try:
        libc.checked(
            libc.lib.fanotify_mark(
                queue, FAN_MARK_ADD | mark, ctypes.c_uint64(mask), libc.AT_FDCWD, libc.path(path)
            )
        )
    finally:
        os.close(queue)


def maps_owners(path: str) -> None:
    """mount_setattr(2) MOUNT_ATTR_IDMAP: a view of the directory in which everybody has another number."""
    ready, started = os.pipe()
    child = os.fork()
    if child == 0:
        libc.lib.unshare(CLONE_NEWUSER)
        os.write(started, b"x")
        signal.pause()
    tree = namespace = -1
    try:
        os.read(ready, 1)
        for kind in ("uid", "gid"):
            with os.fdopen(os.open(f"/proc/{child}/{kind}_map", os.O_WRONLY), "w") as table:
                table.write("0 100000 1000")
        namespace = os.open(f"/proc/{child}/ns/user", os.O_RDONLY)
        tree = libc.checked(
            libc.lib.syscall(SYS_OPEN_TREE, libc.AT_FDCWD, libc.path(path), OPEN_TREE_CLONE | os.O_CLOEXEC)
        )
        view = struct.pack("4Q", MOUNT_ATTR_IDMAP, 0, 0, namespace)
        libc.checked(libc.lib.syscall(SYS_MOUNT_SETATTR, tree, b"", AT_EMPTY_PATH, view, len(view)))
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        for fd in (ready, started, tree, namespace):
            if fd >= 0:
                os.close(fd)


def layers(target: str, options: str) -> None:
    """Mount an overlay on a directory of ours, and take it away again."""
    libc.checked(libc.lib.mount(b"overlay", libc.path(target), b"overlay", 0, options.encode()))
    libc.checked(libc.lib.umount2(libc.path(target), MNT_DETACH))
