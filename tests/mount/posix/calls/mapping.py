"""Mappings, and what is done through them."""

from __future__ import annotations

import ctypes
import os
import stat
import zlib
from typing import Final

from tests.mount.posix.calls import libc

PAGE: Final = 4096
handles: dict[int, tuple[int, int]] = {}


def mmap(fd: int, length: int, protection: int, flags: int, offset: int = 0) -> int:
    """mmap(2); the handle is the address."""
    address = libc.checked(libc.lib.mmap(None, length, protection, flags, fd, offset), failed=(1 << 64) - 1)
    handles[address] = address, length
    return address


def maps(fd: int, length: int, protection: int, flags: int, offset: int = 0) -> None:
    """mmap(2) for its answer only."""
    munmap(mmap(fd, length, protection, flags, offset))


def munmap(handle: int) -> None:
    libc.checked(libc.lib.munmap(*handles.pop(handle)))


def peek(handle: int, offset: int, count: int) -> bytes:
    """Read through a mapping."""
    return ctypes.string_at(handle + offset, count)


def poke(handle: int, offset: int, data: bytes) -> None:
    """Write through a mapping, page after page.

    memmove(3) of all at once begins at the end where the addresses suit it. Behind the end of a file that
    is a bus error, unless a store to the file itself has mapped the huge page before.
    """
    begin = 0
    while begin < len(data):
        end = min(begin + PAGE - (offset + begin) % PAGE, len(data))
        ctypes.memmove(handle + offset + begin, data[begin:end], end - begin)
        begin = end


def touch(handle: int, length: int) -> None:
    """Store a byte into every page of a mapping."""
    for offset in range(0, length, PAGE):
        ctypes.memset(handle + offset, 1, 1)


def msync(handle: int, length: int, flags: int) -> None:
    libc.checked(libc.lib.msync(handle, length, flags))


def madvise(handle: int, offset: int, length: int, advice: int) -> None:
    libc.checked(libc.lib.madvise(handle + offset, length, advice))


def mprotect(handle: int, length: int, protection: int) -> None:
    libc.checked(libc.lib.mprotect(handle, length, protection))


def inherits(handle: int, offset: int, data: bytes) -> bytes:
    """Let a child write through an inherited mapping; what we then see there."""
    child = os.fork()
    if child == 0:
        poke(handle, offset, data)
        os._exit(0)
    os.waitpid(child, 0)
    return peek(handle, offset, len(data))


def smaps(handle: int) -> dict[str, int]:
    """The mapping's figures of /proc/self/smaps, in bytes."""
    figures: dict[str, int] = {}
    inside = False
    with os.fdopen(os.open("/proc/self/smaps", os.O_RDONLY)) as lines:
        for line in lines:
            head = line.split()
            if "-" in head[0] and not head[0].endswith(":"):
                inside = int(head[0].split("-")[0], 16) == handle
            elif inside and len(head) == 3 and head[2] == "kB":
                figures[head[0].rstrip(":")] = int(head[1]) * 1024
    return figures


def store(path: str, offset: int, data: bytes) -> str:
    """Store bytes through a mapping, as far as the file goes."""
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        length = min(len(data), os.fstat(fd).st_size - offset)
        if length <= 0 or not stat.S_ISREG(os.fstat(fd).st_mode):
            return "nothing there"
        handle = mmap(fd, offset + length, 3, 1)
        poke(handle, offset, data[:length])
        munmap(handle)
        return "stored"
    finally:
        os.close(fd)


def store_anyway(path: str, offset: int, data: bytes) -> None:
    """Store bytes through a mapping, also behind the end."""
    fd = os.open(path, os.O_RDWR)
    handle = mmap(fd, offset + len(data), 3, 1)
    os.close(fd)
    poke(handle, offset, data)
    munmap(handle)


def checksum(path: str) -> int:
    """CRC-32 of a file's bytes, read through a mapping."""
    size = os.stat(path).st_size
    return digest(os.fsencode(path), size) if size else 0


def digest(path: bytes, size: int) -> int:
    """A checksum of a file's bytes, read through a mapping."""
    fd = os.open(path, os.O_RDONLY)
    handle = mmap(fd, size, 1, 1)
    try:
        return zlib.crc32(ctypes.string_at(handle, size))
    finally:
        munmap(handle)
        os.close(fd)
