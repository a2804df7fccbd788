"""Mapped memory and file space: mmap, madvise, set_mempolicy, fallocate.

Owns the numbers (include/uapi/asm-generic/mman-common.h, linux/falloc.h, linux/mempolicy.h) and a Mapping
that is always unmapped. Called by the regions and probes; what is resident and huge is in `coverage`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

from guestmemfs_fuse.linux import libc

MADV_POPULATE_READ = 22
MADV_POPULATE_WRITE = 23
MADV_COLLAPSE = 25

FALLOC_FL_KEEP_SIZE = 0x01
FALLOC_FL_PUNCH_HOLE = 0x02

MPOL_DEFAULT = 0
MPOL_BIND = 2

PROT_NONE = 0
PROT_READ = 1
PROT_WRITE = 2
MAP_SHARED = 0x01
MAP_PRIVATE = 0x02
MAP_FIXED = 0x10
MAP_ANONYMOUS = 0x20
MAP_NORESERVE = 0x4000

HUGETLBFS_MAGIC = 0x958458F6

_PMD_BYTES = 2 << 20


class Mapping:
    """A mapping of a file in this process, aligned so that huge pages can be mapped as such.

    Use it as a context manager: leaving it unmaps, whatever happened inside.
    """

    def __init__(
        self,
        fd: int,
        length_bytes: int,
        *,
        prot: int = PROT_READ,
        offset_bytes: int = 0,
        flags: int = MAP_SHARED,
    ) -> None:
        """Map length_bytes of fd from offset_bytes. Raises OSError, ValueError when the length is 0."""
        if length_bytes <= 0:
            raise ValueError("cannot map nothing")
        align = _page_alignment(fd)
        self.length_bytes = length_bytes
        self._span_bytes = -(-length_bytes // align) * align
        # Reserve more than needed and place the file at an aligned spot inside, then give back the rest:
        # whether the kernel aligns by itself depends on the filesystem and its settings.
        reserved_bytes = self._span_bytes + align
        reserved = libc.mmap(0, reserved_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        self.address = -(-reserved // align) * align
        try:
            libc.mmap(self.address, length_bytes, prot, flags | MAP_FIXED, fd, offset_bytes)
        except OSError:
            _unmap(reserved, reserved_bytes)
            raise
        _unmap(reserved, self.address - reserved)
        end = self.address + self._span_bytes
        _unmap(end, reserved + reserved_bytes - end)

    def advise(self, advice: int, offset_bytes: int = 0, length_bytes: int | None = None) -> None:
        """madvise(2) on a part of it (default: all). advice: MADV_*. Raises OSError."""
        length = self.length_bytes - offset_bytes if length_bytes is None else length_bytes
        madvise(self.address + offset_bytes, length, advice)

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """Bytes of the mapping. Raises IndexError outside of it."""
        self._check(offset_bytes, length_bytes)
        return libc.read_memory(self.address + offset_bytes, length_bytes)

    def write(self, offset_bytes: int, data: bytes) -> None:
        """Store data; the mapping must be writable. Raises IndexError outside of it."""
        self._check(offset_bytes, len(data))
        libc.write_memory(self.address + offset_bytes, data)

    def close(self) -> None:
        """Unmap; doing it twice is harmless."""
        if self._span_bytes:
            _unmap(self.address, self._span_bytes)
            self._span_bytes = 0
            self.length_bytes = 0

    def __enter__(self) -> Mapping:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check(self, offset_bytes: int, length_bytes: int) -> None:
        if offset_bytes < 0 or offset_bytes + length_bytes > self.length_bytes:
            raise IndexError("outside of the mapping")


def _page_alignment(fd: int) -> int:
    """A PMD, or what the file says: hugetlbfs demands its own page size and shows it as st_blksize."""
    return max(_PMD_BYTES, os.fstat(fd).st_blksize)


def _unmap(address: int, length_bytes: int) -> None:
    if length_bytes:
        libc.call("munmap", address, length_bytes)


def madvise(address: int, length_bytes: int, advice: int) -> None:
    """madvise(2) on this process's memory. Raises OSError (EINVAL: this kernel has no such advice)."""
    libc.call("madvise", address, length_bytes, advice)


@contextmanager
def allocating_on(node: int | None) -> Iterator[None]:
    """What this thread allocates inside the block comes from one NUMA node only; None: from wherever.

    hugetlbfs has no policy of its own (mbind is the VMA's), but its fallocate(2) follows the thread's.
    Raises OSError (EINVAL: no such node with memory).
    """
    if node is None:
        yield
        return
    raw = bytearray((1 << node).to_bytes((node // 64 + 1) * 8, "little"))
    # maxnode counts bits plus one: the kernel drops the last (get_nodes() in mm/mempolicy.c).
    libc.syscall("set_mempolicy", MPOL_BIND, raw, len(raw) * 8 + 1)
    try:
        yield
    finally:
        libc.syscall("set_mempolicy", MPOL_DEFAULT, None, 0)


def fallocate(fd: int, mode: int, offset_bytes: int, length_bytes: int) -> None:
    """fallocate(2) with FALLOC_FL_* modes; retried when a signal interrupts it, as PEP 475 would.

    Raises OSError (ENOSPC, EOPNOTSUPP ...). Runs without the GIL: call it from a thread.
    """
    while True:
        try:
            libc.call("fallocate64", fd, mode, offset_bytes, length_bytes)
        except InterruptedError:
            continue
        return


def filesystem_type(fd: int) -> int:
    """The magic number of the filesystem a file is on (statfs(2) f_type; os.fstatvfs hides it)."""
    buffer = bytearray(256)
    libc.call("fstatfs", fd, buffer)
    return int.from_bytes(buffer[:8], "little") & 0xFFFFFFFF
