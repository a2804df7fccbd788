"""Size and memory of files, and data by system call."""

from __future__ import annotations

import fcntl
import os
import socket

from tests.mount.posix.calls import libc


def truncate(path: str | bytes, length: int) -> None:
    libc.checked(libc.lib.truncate(libc.path(path), length))


def ftruncate(fd: int, length: int) -> None:
    libc.checked(libc.lib.ftruncate(fd, length))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    libc.checked(libc.lib.fallocate(fd, mode, offset, length))


def lseek(fd: int, offset: int, whence: int) -> int:
    return libc.checked(libc.lib.lseek(fd, offset, whence))


fsync = os.fsync
fdatasync = os.fdatasync


def syncfs(fd: int) -> None:
    libc.checked(libc.lib.syncfs(fd))


def fallocates(path: str, mode: int, offset: int, length: int) -> None:
    """fallocate(2) of a path."""
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        fallocate(fd, mode, offset, length)
    finally:
        os.close(fd)


read = os.read
write = os.write
pread = os.pread
pwrite = os.pwrite


def readv(fd: int, count: int) -> int:
    return os.readv(fd, [bytearray(count)])


def writev(fd: int, data: bytes) -> int:
    return os.writev(fd, [data])


def sendfile_out_of(fd: int, count: int = 4) -> int:
    """sendfile(2) from `fd` into a socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        return os.sendfile(ours.fileno(), fd, 0, count)


def sendfile_between(source_fd: int, target_fd: int, count: int = 4) -> int:
    return os.sendfile(target_fd, source_fd, 0, count)


def sendfile_into(fd: int, count: int = 4) -> int:
    """sendfile(2) from a memfd into `fd`."""
    source = _filled_memfd(count)
    try:
        return os.sendfile(fd, source, 0, count)
    finally:
        os.close(source)


def splice_out_of(fd: int, count: int = 4) -> int:
    """splice(2) from `fd` into a pipe."""
    reader, writer = os.pipe()
    try:
        return os.splice(fd, writer, count)
    finally:
        os.close(reader)
        os.close(writer)


def splice_into(fd: int, data: bytes = b"data") -> int:
    """splice(2) from a pipe into `fd`."""
    reader, writer = os.pipe()
    try:
        os.write(writer, data)
        return os.splice(reader, fd, len(data))
    finally:
        os.close(reader)
        os.close(writer)


def copy_file_range(source_fd: int, target_fd: int, count: int = 4) -> int:
    return os.copy_file_range(source_fd, target_fd, count)


def copy_into(fd: int, count: int = 4) -> int:
    """copy_file_range(2) from a memfd (another filesystem) into `fd`."""
    source = _filled_memfd(count)
    try:
        return os.copy_file_range(source, fd, count)
    finally:
        os.close(source)


def clone(source_fd: int, target_fd: int) -> None:
    """ioctl(FICLONE)."""
    fcntl.ioctl(target_fd, 0x40049409, source_fd)


def _filled_memfd(count: int) -> int:
    fd = os.memfd_create("source")
    os.write(fd, b"x" * count)
    return fd


def ioctl(fd: int, request: int) -> int:
    return int(fcntl.ioctl(fd, request, b"\0" * 8) != b"") and 0
