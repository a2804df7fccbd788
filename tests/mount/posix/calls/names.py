"""Names: making, removing, moving them, and listing directories."""

from __future__ import annotations

import ctypes
import os
import socket
import stat
import struct

from tests.mount.posix.calls import libc


def mkdir(path: str | bytes, mode: int = 0o755) -> None:
    os.mkdir(path, mode)


def mkdirat(dir_fd: int, path: str | bytes, mode: int = 0o755) -> None:
    os.mkdir(path, mode, dir_fd=dir_fd)


def mknod(path: str | bytes, mode: int = stat.S_IFREG | 0o644, device: int = 0) -> None:
    os.mknod(path, mode, device)


def bind(path: str) -> None:
    """Make a socket by bind(2)."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)


def talk(path: str) -> bytes:
    """Send five bytes through a named pipe, from this process to itself."""
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    os.write(fd, b"hello")
    return os.read(fd, 5)


def connect(path: str) -> None:
    """Connect to a socket that nobody serves (any more)."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


rmdir = os.rmdir
unlink = os.unlink


def unlinkat(dir_fd: int, path: str | bytes, flags: int = 0) -> None:
    libc.checked(libc.lib.unlinkat(dir_fd, libc.path(path), flags))


def rename(old: str | bytes, new: str | bytes, flags: int = 0) -> None:
    """renameat2(2)."""
    libc.checked(libc.lib.renameat2(libc.AT_FDCWD, libc.path(old), libc.AT_FDCWD, libc.path(new), flags))


def link(old: str | bytes, new: str | bytes) -> None:
    libc.checked(libc.lib.link(libc.path(old), libc.path(new)))


def linkat(old_fd: int, old: str | bytes, new: str | bytes, flags: int = 0) -> None:
    libc.checked(libc.lib.linkat(old_fd, libc.path(old), libc.AT_FDCWD, libc.path(new), flags))


symlink = os.symlink
readlink = os.readlink


def readlink_bytes(path: str) -> bytes:
    return os.readlink(os.fsencode(path))


def listdir(path: str | bytes = ".") -> list[str] | list[bytes]:
    found = os.listdir(path)
    found.sort()
    return found


def entries(fd: int, size: int = 32768) -> list[tuple[bytes, int, int, int]]:
    """getdents64(2) once: (name, inode, offset, type) of each entry."""
    buffer = ctypes.create_string_buffer(size)
    length = libc.checked(libc.lib.syscall(217, fd, buffer, size))
    found, at = [], 0
    while at < length:
        ino, offset, reclen, kind = struct.unpack_from("=QqHB", buffer, at)
        name = buffer.raw[at + 19 : at + reclen].split(b"\0")[0]
        found.append((name, ino, offset, kind))
        at += reclen
    return found


def fchdir(fd: int) -> None:
    os.fchdir(fd)


def chdir(path: str) -> None:
    os.chdir(path)


def depth(base_fd: int) -> int:
    """How many directories are above this one, up to `base_fd`'s, which becomes the current one."""
    top, steps = os.fstat(base_fd), 0
    while not os.path.samestat(os.stat("."), top):
        os.chdir("..")
        steps += 1
    return steps
