"""How much of a backing file is resident, and how much of that is in huge pages, as the kernel reports it.

The kernel tells folio sizes only through page tables, so the file is mapped here, window by window, read-only
and shared, and PAGEMAP_SCAN counts what came out PMD mapped. Invariants:

* nothing is allocated: a read fault on a hole of a shared shmem or hugetlb mapping would allocate it, so only
  ranges known to be present are touched;
* little is zeroed: space that was allocated but never used is zeroed by the first touch (seconds a GiB on a
  cold virtual machine). Of such space only a few blocks are looked at and stand for the rest; they are at
  the same places every time, so that asking again touches nothing new;
* no SIGBUS: pages are touched by MADV_POPULATE_READ, which returns EFAULT when the file shrank meanwhile;
* this process's resident size stays small: windows are unmapped before the next is mapped;
* a file that ends inside a huge page has that page all the same: what is mapped goes beyond the end, what is
  touched does not.

Never MADV_COLLAPSE here, nor on any range that is not data (docs/kernel-facts.md: it loses what is written
afterwards). Called by the regions and the daemon, in a thread.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from guestmemfs_fuse.linux import libc, memory

PAGE_IS_PFNZERO = 1 << 5
PAGE_IS_HUGE = 1 << 6

# _IOWR('f', 16, struct pm_scan_arg), 12 words; Linux >= 6.7 (include/uapi/linux/fs.h).
_PAGEMAP_SCAN = 0xC0606610
_SCAN_ARG = struct.Struct("=12Q")
_PAGE_REGION = struct.Struct("=QQQ")
_REGIONS = 128
_CACHESTAT_RANGE = struct.Struct("=QQ")
_CACHESTAT = struct.Struct("=5Q")

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PMD_BYTES = 2 << 20
_WINDOW_BYTES = 64 << 20
_EHWPOISON = 133

Range = tuple[int, int]  # [start, end) in bytes


@dataclass(frozen=True, slots=True)
class Coverage:
    """What a backing file has in memory.

    resident_bytes: allocated, used or not; huge_bytes: how much of that is in huge pages; measured_bytes: how
    much was looked at (the rest was judged by a sample); untouched_bytes: allocated but never used so far.
    """

    resident_bytes: int
    huge_bytes: int
    measured_bytes: int
    untouched_bytes: int

    @property
    def huge_fraction(self) -> float:
        """Share of huge pages in what is resident; 0.0 when nothing is."""
        return self.huge_bytes / self.resident_bytes if self.resident_bytes else 0.0


def file_coverage(fd: int, size_bytes: int | None = None, *, sample_blocks: int = 16) -> Coverage:
    """Measure a shmem, hugetlbfs or dax file that need not be mapped by anybody.

    fd: open for reading; size_bytes: how far to look (default: all of the file); sample_blocks: how many 2M
    blocks that were allocated but never used may be touched (and so zeroed). Takes 2 ms a GiB in huge pages,
    100 ms in small ones, so call it from a thread. Raises OSError.
    """
    stat = os.fstat(fd)
    resident_bytes = stat.st_blocks * 512
    size_bytes = stat.st_size if size_bytes is None else min(size_bytes, stat.st_size)
    if memory.filesystem_type(fd) == memory.HUGETLBFS_MAGIC:
        # Nothing but huge pages can be in there, and touching a hole would take one from the pool.
        return Coverage(resident_bytes, resident_bytes, resident_bytes, 0)
    reach_bytes = -(-size_bytes // _PMD_BYTES) * _PMD_BYTES
    data = [(start, end if end < size_bytes else reach_bytes) for start, end in data_ranges(fd, size_bytes)]
    untouched = _untouched(fd, _gaps(data, reach_bytes), resident_bytes, size_bytes)
    untouched_bytes = sum(end - start for start, end in untouched)
    sample = _sample(data, untouched, sample_blocks) if untouched else []
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        measured, huge = _measure_all(pagemap.fileno(), fd, data, size_bytes)
        sampled, sampled_huge = _measure_all(pagemap.fileno(), fd, sample, size_bytes)
    if sampled:
        huge += untouched_bytes * sampled_huge // sampled
    return Coverage(resident_bytes, huge, measured + sampled, untouched_bytes)


def data_ranges(fd: int, size_bytes: int) -> list[Range]:
    """Ranges SEEK_DATA calls data: for shmem what was touched, for a disk filesystem what was written.

    Of a file that is cut meanwhile, what was found before.
    """
    ranges = []
    at = 0
    try:
        while at < size_bytes:
            start = os.lseek(fd, at, os.SEEK_DATA)
            if start >= size_bytes:
                break
            at = min(os.lseek(fd, start, os.SEEK_HOLE), size_bytes)
            ranges.append((start, at))
    except OSError as error:
        # No data behind this offset, or by now none at it
        if error.errno != errno.ENXIO:
            raise
    return ranges


def cached_bytes(fd: int, start: int, end: int) -> int:
    """Bytes of a range that have a page in the page cache, used or not: cachestat(2), Linux >= 6.5."""
    result = bytearray(_CACHESTAT.size)
    span = bytearray(_CACHESTAT_RANGE.pack(start, end - start))
    libc.syscall("cachestat", fd, span, result, 0)
    return int(_CACHESTAT.unpack(result)[0]) * _PAGE_BYTES


def _gaps(ranges: list[Range], reach_bytes: int) -> list[Range]:
    gaps = []
    at = 0
    for start, end in [*ranges, (reach_bytes, reach_bytes)]:
        if start > at:
            gaps.append((at, start))
        at = end
    return gaps


def _untouched(fd: int, gaps: list[Range], resident_bytes: int, size_bytes: int) -> list[Range]:
    """Which gaps between data are allocated all the same; only whole huge-page blocks are considered."""
    blocks = [(-(-s // _PMD_BYTES) * _PMD_BYTES, e // _PMD_BYTES * _PMD_BYTES) for s, e in gaps]
    blocks = [(start, end) for start, end in blocks if start < end]
    if not blocks:
        return []
    try:
        present = [(s, e, cached_bytes(fd, s, e)) for s, e in blocks]
    except OSError as error:
        if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        # Without cachestat only a file without any hole can be told from one that has some.
        return blocks if resident_bytes >= size_bytes else []
    found: list[Range] = []
    for start, end, cached in present:
        if cached == end - start:
            found.append((start, end))
        elif cached:
            found += _present_blocks(fd, start, end)
    return found


def _present_blocks(fd: int, start: int, end: int) -> Iterator[Range]:
    for at in range(start, end, _PMD_BYTES):
        if cached_bytes(fd, at, at + _PMD_BYTES) == _PMD_BYTES:
            yield at, at + _PMD_BYTES


def _sample(data: list[Range], untouched: list[Range], wanted: int) -> list[Range]:
    """Blocks spread evenly over all that is allocated, whether it was used or not."""
    blocks = [
        at
        for start, end in _merged(data + untouched)
        for at in range(-(-start // _PMD_BYTES) * _PMD_BYTES, end - _PMD_BYTES + 1, _PMD_BYTES)
    ]
    count = min(wanted, len(blocks))
    picked = [blocks[(2 * i + 1) * len(blocks) // (2 * count)] for i in range(count)]
    return [(at, at + _PMD_BYTES) for at in picked]


def _merged(ranges: list[Range]) -> list[Range]:
    merged: list[Range] = []
    for start, end in sorted(ranges):
        if merged and merged[-1][1] == start:
            merged[-1] = (merged[-1][0], end)
        else:
            merged.append((start, end))
    return merged


def _measure_all(pagemap_fd: int, fd: int, ranges: list[Range], size_bytes: int) -> tuple[int, int]:
    """(measured, huge) bytes over ranges that are present in the file, which ends at size_bytes."""
    results = [_measure(pagemap_fd, fd, start, end, size_bytes) for start, end in ranges]
    return sum(measured for measured, _ in results), sum(huge for _, huge in results)


def _measure(pagemap_fd: int, fd: int, start: int, end: int, size_bytes: int) -> tuple[int, int]:
    """(measured, huge) bytes of one such range."""
    measured = huge = 0
    at = start
    while at < end:
        base = at // _PMD_BYTES * _PMD_BYTES
        stop = min(end, base + _WINDOW_BYTES)
        with memory.Mapping(fd, stop - base, offset_bytes=base) as window:
            try:
                window.advise(memory.MADV_POPULATE_READ, at - base, min(stop, size_bytes) - at)
                counted = _huge_bytes(pagemap_fd, window.address + at - base, window.address + stop - base)
            except OSError as error:
                # Truncated or poisoned meanwhile: not measured, and not an error of the reader's.
                if error.errno not in (errno.EFAULT, errno.ENOMEM, _EHWPOISON):
                    raise
                counted = None
        if counted is not None:
            measured += stop - at
            huge += counted
        at = stop
    return measured, huge


def huge_bytes_at(address: int, length_bytes: int) -> int:
    """How much of a range of our own address space is PMD mapped; what is not touched counts as not."""
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        return _huge_bytes(pagemap.fileno(), address, address + length_bytes)


def _huge_bytes(pagemap_fd: int, start: int, end: int) -> int:
    """PMD-mapped bytes in our own address range [start, end)."""
    vec = bytearray(_PAGE_REGION.size * _REGIONS)
    vec_address = libc.address_of(vec)
    total = 0
    while start < end:
        arg = bytearray(
            _SCAN_ARG.pack(
                _SCAN_ARG.size, 0, start, end, 0, vec_address, _REGIONS, 0,
                PAGE_IS_PFNZERO, PAGE_IS_HUGE | PAGE_IS_PFNZERO, 0, PAGE_IS_HUGE,
            )
        )  # fmt: skip
        try:
            count = fcntl.ioctl(pagemap_fd, _PAGEMAP_SCAN, arg)
        except OSError as error:
            if error.errno != errno.ENOTTY:
                raise
            return _pmd_mapped_bytes(start)
        for i in range(count):
            first, last, _ = _PAGE_REGION.unpack_from(vec, i * _PAGE_REGION.size)
            total += last - first
        start = _SCAN_ARG.unpack(arg)[4]
    return total


def _pmd_mapped_bytes(address: int) -> int:
    """The same from smaps, for kernels before PAGEMAP_SCAN. Counts the whole VMA at address."""
    total = 0
    inside = False
    with open("/proc/self/smaps") as file:
        for line in file:
            key, _, value = line.partition(" ")
            if not key.endswith(":"):
                first, _, last = key.partition("-")
                inside = int(first, 16) <= address < int(last, 16)
            elif inside and key in ("ShmemPmdMapped:", "FilePmdMapped:"):
                total += int(value.split()[0]) * 1024
    return total
