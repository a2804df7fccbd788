"""Descriptors: open(2) and its kin, and file handles."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct

from tests.mount.posix.calls import libc


def open(path: str | bytes, flags: int = os.O_RDONLY, mode: int = 0o644) -> int:
    return os.open(path, flags, mode)


def opens(path: str | bytes, flags: int = os.O_RDONLY, mode: int = 0o644) -> None:
    """open(2) for its answer only."""
    os.close(os.open(path, flags, mode))


def openat(dir_fd: int, path: str | bytes, flags: int = os.O_RDONLY, mode: int = 0o644) -> int:
    return os.open(path, flags, mode, dir_fd=dir_fd)


def close(fd: int) -> None:
    os.close(fd)


dup = os.dup


def open_flags(fd: int) -> int:
    """fcntl(F_GETFL)."""
    return fcntl.fcntl(fd, fcntl.F_GETFL)


def set_open_flags(fd: int, flags: int) -> None:
    """fcntl(F_SETFL)."""
    fcntl.fcntl(fd, fcntl.F_SETFL, flags)


def handle_of(path: str) -> bytes:
    """name_to_handle_at(2): a name for the file that outlives all its names."""
    handle, mount = ctypes.create_string_buffer(8 + 128), ctypes.c_int()
    struct.pack_into("Ii", handle, 0, 128, 0)
    libc.checked(libc.lib.name_to_handle_at(libc.AT_FDCWD, libc.path(path), handle, ctypes.byref(mount), 0))
    return handle.raw


def open_handle(mount_fd: int, handle: bytes, flags: int = os.O_RDONLY) -> int:
    """open_by_handle_at(2)."""
    return libc.checked(libc.lib.open_by_handle_at(mount_fd, handle, flags))


def no_handle(mount_fd: int, handle: bytes) -> str:
    """open_by_handle_at(2) right behind other calls: the errno's name."""
    try:
        return f"opened {open_handle(mount_fd, handle)}"
    except OSError as error:
        return errno.errorcode[error.errno or 0]
