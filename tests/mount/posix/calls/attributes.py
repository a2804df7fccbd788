"""Attributes, times and extended attributes."""

from __future__ import annotations

import ctypes
import os
import struct
import time

from tests.mount.posix.calls import libc

CLOCK_REALTIME_COARSE = 5
SYS_FCHMODAT2 = 452
UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2


exists = os.path.lexists
stat_ = os.stat  # CALLS strips the underscore, so nothing refers to this name
lstat = os.lstat
fstat = os.fstat


def chmod(path: str | bytes, mode: int) -> None:
    os.chmod(path, mode)


def fchmod(fd: int, mode: int) -> None:
    os.fchmod(fd, mode)


def lchmod(path: str | bytes, mode: int) -> None:
    """fchmodat2(2) with libc.AT_SYMLINK_NOFOLLOW."""
    libc.checked(
        libc.lib.syscall(SYS_FCHMODAT2, libc.AT_FDCWD, libc.path(path), mode, libc.AT_SYMLINK_NOFOLLOW)
    )


def chown(path: str | bytes, uid: int, gid: int) -> None:
    os.chown(path, uid, gid)


lchown = os.lchown
fchown = os.fchown


def utimens(path: str | bytes, times: tuple[int, int] | None, follow: bool = True) -> None:
    """utimensat(2) with whole nanoseconds (access, modification), or None for now and now."""
    os.utime(path, ns=times, follow_symlinks=follow) if times else os.utime(path, follow_symlinks=follow)


def utimensat(path: str | bytes, access: tuple[int, int], modification: tuple[int, int]) -> None:
    """utimensat(2) with raw (seconds, nanoseconds), which UTIME_NOW and UTIME_OMIT need."""
    times = struct.pack("4q", *access, *modification)
    libc.checked(libc.lib.utimensat(libc.AT_FDCWD, libc.path(path), times, 0))


def futimens(fd: int, access_ns: int, modification_ns: int) -> None:
    os.utime(fd, ns=(access_ns, modification_ns))


def access(path: str | bytes, mode: int) -> None:
    """access(2); Python would turn the error into False."""
    libc.checked(libc.lib.access(libc.path(path), mode))


def statfs(path: str) -> dict[str, int]:
    """What statvfs(3) says, by field."""
    found = os.statvfs(path)
    return {name: getattr(found, name) for name in dir(found) if name.startswith("f_")}


def fstatfs(fd: int) -> dict[str, int]:
    found = os.fstatvfs(fd)
    return {name: getattr(found, name) for name in dir(found) if name.startswith("f_")}


def drop_caches() -> None:
    """Let the kernel forget all names and inodes that nobody uses (proc(5), drop_caches)."""
    fd = os.open("/proc/sys/vm/drop_caches", os.O_WRONLY)
    os.write(fd, b"2")
    os.close(fd)


setxattr = os.setxattr
getxattr = os.getxattr
listxattr = os.listxattr
removexattr = os.removexattr


def lsetxattr(path: str, name: str, value: bytes, flags: int = 0) -> None:
    os.setxattr(path, name, value, flags, follow_symlinks=False)


def getxattr_into(path: str, name: str, size: int) -> int:
    """getxattr(2) into a buffer of `size` bytes."""
    return libc.checked(
        libc.lib.getxattr(libc.path(path), name.encode(), ctypes.create_string_buffer(max(size, 1)), size)
    )


def listxattr_into(path: str, size: int) -> int:
    return libc.checked(libc.lib.listxattr(libc.path(path), ctypes.create_string_buffer(max(size, 1)), size))


def statx_version(path: str) -> int:
    """statx(2): the mask of what was filled in."""
    buffer = ctypes.create_string_buffer(256)
    libc.checked(libc.lib.statx(libc.AT_FDCWD, libc.path(path), libc.AT_SYMLINK_NOFOLLOW, 0x7FF, buffer))
    return int(struct.unpack_from("I", buffer)[0])


def times(paths: list[str]) -> dict[str, tuple[int, int, int] | None]:
    """Access, modification and change time of each path, None where there is nothing."""
    return {path: _times(path) for path in paths}


def past_times(paths: list[str]) -> dict[str, tuple[int, int, int] | None]:
    """Set access and modification times well into the past, and come back when the clock has moved on.

    The kernel may stamp from its coarse clock, which ticks every few milliseconds and lags behind the
    fine one: a change could not be told from none before the coarse clock has passed the last stamp.
    """
    for path in paths:
        if os.path.lexists(path):
            os.utime(path, ns=(10**18, 10**18 + 1), follow_symlinks=False)
    before = times(paths)
    last = max(stamps[2] for stamps in before.values() if stamps is not None)
    while time.clock_gettime_ns(CLOCK_REALTIME_COARSE) <= last:
        pass
    return before


def _times(path: str) -> tuple[int, int, int] | None:
    try:
        at = os.lstat(path)
    except FileNotFoundError:
        return None
    return at.st_atime_ns, at.st_mtime_ns, at.st_ctime_ns
