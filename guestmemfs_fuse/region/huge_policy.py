"""--huge prefer|require: that memory which was just allocated in a tmpfs or memfd region is in huge pages.

Page sizes show only in page tables, and looking there zeroes memory nobody has used (docs/kernel-facts.md).
So an allocation is judged by the kernel's own counters: thp_file_alloc went up by every block of it, and
thp_file_fallback did not move, which it does whenever a huge=always tmpfs gives a small page for want of a
huge one (shmem_alloc_and_add_folio(), mm/shmem.c). They are the whole host's: when they do not say so,
nothing is proven, and it is looked at block by block:

* behind the file's end nobody can have touched a block: it is freed and allocated again, alone, and with
  `require` once more after the kernel has compacted memory (an allocation does not do that by itself where
  transparent_hugepage/defrag is madvise, the usual setting);
* before the end a program may map the block and use it by now, so it is never freed: it is touched (which
  makes it data; collapsing unused memory loses what is stored later), measured in the page tables, and
  collapsed if need be. A block with the file's end in it is collapsed too, but cannot be measured behind the
  end, so it never makes `require` fail: its memory is allocated in one go like any other's.

Called by region/backing_files around fallocate; any thread.
"""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from guestmemfs_fuse.core.errors import InterruptedFsError, RegionFullError
from guestmemfs_fuse.linux import coverage, hwpoison, memory
from guestmemfs_fuse.region.base import Stop

if TYPE_CHECKING:
    from guestmemfs_fuse.linux.collapse import Patience

log = logging.getLogger(__name__)

HUGE_BYTES: Final = 2 << 20
_HOPELESS: Final = 16
"""So many blocks in a row without a huge page, and `prefer` tries no more in this allocation."""
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_READ_BYTES: Final = 1 << 14
# Busy, no memory, not possible now, cut meanwhile, or lost to a memory error: such a block stays as it is.
_NOT_NOW: Final = (
    errno.EAGAIN, errno.EBUSY, errno.ENOMEM, errno.EINVAL, errno.EFAULT, hwpoison.EHWPOISON,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class HugeCounters:
    """Of /proc/vmstat: huge pages given to files, and times a small one had to do."""

    given: int
    fallen_back: int

    def proves(self, before: HugeCounters, blocks: int) -> bool:
        """Whether all of `blocks` that were allocated since `before` are huge."""
        return self.fallen_back == before.fallen_back and self.given - before.given >= blocks


_GIVEN: Final = b"\nthp_file_alloc "
_FALLEN_BACK: Final = (b"\nthp_file_fallback ", b"\nthp_file_fallback_charge ")


def read_counters(path: str = "/proc/vmstat") -> HugeCounters:
    """The counters now; all zero on a kernel without transparent huge pages."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        raw = os.read(fd, _READ_BYTES)
        # A page at most is given at a time (seq_read_iter(), fs/seq_file.c), and the file may be longer. What
        # we want stands together (mm/vmstat.c), and every read counts everything: so no more than needed.
        while not _has_counters(raw) and (more := os.read(fd, _READ_BYTES)):
            raw += more
    finally:
        os.close(fd)
    return HugeCounters(_value(raw, _GIVEN), sum(_value(raw, name) for name in _FALLEN_BACK))


def _has_counters(raw: bytes) -> bool:
    at = raw.find(_FALLEN_BACK[-1])
    return at >= 0 and raw.find(b"\n", at + 1) >= 0


def _value(raw: bytes, name: bytes) -> int:
    at = raw.find(name)
    return int(raw[at + len(name) : raw.index(b"\n", at + 1)]) if at >= 0 else 0


class HugePolicy:
    """What an instance was mounted with. numa_node: where its memory comes from, or None."""

    def __init__(self, wish: Literal["prefer", "require"], numa_node: int | None = None) -> None:
        self._is_required = wish == "require"
        self._numa_node = numa_node
        self.small_blocks = 0

    def see_to(
        self, fd: int, start: int, end: int, before: HugeCounters | None, stop: Stop
    ) -> HugeCounters | None:
        """After fallocate(2) of whole blocks [start, end): have them in huge pages as far as can be.

        before: the counters when no byte of it had memory; None: some had. Returns the counters now, for the
        next stretch, if they prove it all. Raises OSError (ENOSPC, ENOMEM); RegionFullError when huge pages
        are required and not to be had, InterruptedFsError. What is allocated by then is the caller's to free.
        """
        blocks = range(start, end, HUGE_BYTES)
        if before is not None:
            after = read_counters()
            if after.proves(before, len(blocks)):
                return after
        from guestmemfs_fuse.linux.collapse import Patience

        file_end = os.fstat(fd).st_size
        patience = Patience()
        small = [at for at in blocks if at < file_end and not self._mend(fd, at, file_end, patience)]
        small += self._again(fd, [at for at in blocks if at >= file_end], stop)
        if not small:
            return None
        self.small_blocks += len(small)
        if self._is_required:
            raise RegionFullError(f"the host has no huge pages left for {len(small)} of {len(blocks)} blocks")
        log.info("%d of %d blocks that were allocated are in small pages", len(small), len(blocks))
        return None

    def _again(self, fd: int, blocks: list[int], stop: Stop) -> list[int]:
        """Behind the file's end: free and allocate, one by one; returns those that are not proven huge."""
        small = self._reallocated(fd, blocks, stop)
        if small and self._is_required:
            compact(self._numa_node)
            small = self._reallocated(fd, small, stop)
        return small

    def _reallocated(self, fd: int, blocks: Iterable[int], stop: Stop) -> list[int]:
        small: list[int] = []
        in_a_row = 0
        for at in blocks:
            if stop():
                raise InterruptedFsError("the caller gave up")
            if in_a_row >= _HOPELESS and not self._is_required:
                small.append(at)
                continue
            memory.fallocate(fd, memory.FALLOC_FL_PUNCH_HOLE | memory.FALLOC_FL_KEEP_SIZE, at, HUGE_BYTES)
            before = read_counters()
            memory.fallocate(fd, memory.FALLOC_FL_KEEP_SIZE, at, HUGE_BYTES)
            if read_counters().proves(before, 1):
                in_a_row = 0
            else:
                small.append(at)
                in_a_row += 1
        return small

    def _mend(self, fd: int, at: int, file_end: int, patience: Patience) -> bool:
        """Before the file's end: whether the block is huge by now, or nobody can say."""
        from guestmemfs_fuse.linux.collapse import collapse

        has_file_end = at + HUGE_BYTES > file_end
        touchable = min(HUGE_BYTES, -(-file_end // _PAGE_BYTES) * _PAGE_BYTES - at)
        protection = memory.PROT_READ | memory.PROT_WRITE
        with memory.Mapping(fd, HUGE_BYTES, prot=protection, offset_bytes=at) as block:
            try:
                block.advise(memory.MADV_POPULATE_WRITE, 0, touchable)
                if coverage.huge_bytes_at(block.address, HUGE_BYTES) < HUGE_BYTES:
                    collapse(block, 0, HUGE_BYTES, patience)
                    block.advise(memory.MADV_POPULATE_READ, 0, touchable)
            except OSError as error:
                if error.errno not in _NOT_NOW:
                    raise
                return has_file_end
            return has_file_end or coverage.huge_bytes_at(block.address, HUGE_BYTES) == HUGE_BYTES


def compact(numa_node: int | None) -> None:
    """Have the kernel make room for huge pages. Source: Documentation/admin-guide/sysctl/vm.rst."""
    where = f"/sys/devices/system/node/node{numa_node}/compact"
    try:
        with open("/proc/sys/vm/compact_memory" if numa_node is None else where, "w") as file:
            file.write("1")
    except OSError as error:
        log.debug("memory cannot be compacted: %s", error)
