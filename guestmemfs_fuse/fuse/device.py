"""The /dev/fuse connection: opening, mounting, backing ids, and what the daemon tells the kernel unasked.

Owns nothing: callers own the file descriptor, which outlives daemons in the fd store. Every function is one
or two system calls and raises OSError as the kernel gave it. Called by connection (mounting) and kernel (the
rest).
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import stat

from guestmemfs_fuse.fuse import abi, notify
from guestmemfs_fuse.linux.mount import MS_NODEV, MS_NOEXEC, MS_NOSUID, mount

DEVICE_PATH = "/dev/fuse"


def open_device() -> int:
    """Open an unmounted connection (not inherited, non-blocking); the caller owns the descriptor."""
    return os.open(DEVICE_PATH, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)


def is_connected(fuse_fd: int) -> bool:
    """Whether the connection still has a superblock: poll(2) says POLLERR when not (fuse_dev_poll)."""
    poll = select.poll()
    poll.register(fuse_fd, select.POLLIN)
    return not any(events & select.POLLERR for _, events in poll.poll(0))


def mount_fuse(fuse_fd: int, mountpoint: str, *, source: str) -> None:
    """Mount the connection. findmnt shows it as fuse.guestmemfs.

    source: what /proc/mounts shows in the first column. default_permissions lets the kernel check mode bits;
    allow_other admits users besides the one that mounts. Returns before the kernel's INIT is answered.
    """
    root_mode = stat.S_IFMT(os.stat(mountpoint).st_mode)
    options = [
        f"fd={fuse_fd}",
        f"rootmode={root_mode:o}",
        f"user_id={os.getuid()}",
        f"group_id={os.getgid()}",
        "subtype=guestmemfs",
        "default_permissions",
        "allow_other",
    ]
    mount(source, mountpoint, "fuse", MS_NOSUID | MS_NODEV | MS_NOEXEC, ",".join(options))


def backing_open(fuse_fd: int, backing_fd: int) -> int:
    """Register a backing file, return its id, which lives as long as the connection or until backing_close.

    Needs CAP_SYS_ADMIN and a session with FUSE_PASSTHROUGH (EPERM without); ELOOP for hugetlbfs, EOPNOTSUPP
    when the kernel was built without. The kernel keeps its own reference: backing_fd may be closed
    afterwards.
    """
    # a mutable argument makes fcntl return ioctl's result, which is the id
    request = bytearray(abi.BACKING_MAP.pack(backing_fd, 0, 0))
    return int(fcntl.ioctl(fuse_fd, abi.DEV_IOC_BACKING_OPEN, request))


def backing_close(fuse_fd: int, backing_id: int) -> None:
    """Take a backing id back; open and mapped files keep their backing file. ENOENT: no such id."""
    fcntl.ioctl(fuse_fd, abi.DEV_IOC_BACKING_CLOSE, bytearray(abi.BACKING_ID.pack(backing_id)))


def kernel_knows(fuse_fd: int, nodeid: int) -> bool:
    """Whether the kernel has the inode in its cache: open, mapped, or merely remembered.

    Asked by invalidating its attributes only, which is harmless; ENOENT is the kernel's word for no
    (fuse_reverse_inval_inode). Says when an unlinked file may be reaped after a forget was lost with a
    daemon.
    """
    try:
        os.write(fuse_fd, notify.inval_inode(nodeid, -1, 0))
    except FileNotFoundError:
        return False
    return True


def invalidate_entry(fuse_fd: int, parent_nodeid: int, name: bytes) -> None:
    """Make the kernel look a name up again.

    Blocks until calls in flight on that directory are answered (the kernel takes the directory's lock), so
    call it from a thread, never from the loop that answers them.
    """
    try:
        os.write(fuse_fd, notify.inval_entry(parent_nodeid, name))
    except OSError as error:
        # ENOENT: not cached; ENOTDIR and ENOTEMPTY: in use in a way that a cached name cannot harm
        if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ENOTEMPTY):
            raise
