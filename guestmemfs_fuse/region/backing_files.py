"""What the kinds with one backing file per inode share: tmpfs, memfd and dax.

A subclass says how a backing file is made, opened, removed and listed, and how full the region is;
everything that is done to an open backing file is here. The backing file has the file's exact size;
its memory is whole blocks (fallocate with KEEP_SIZE reaches past the end).

Called by the engine through region/base.Region.
"""

from __future__ import annotations

import errno
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from guestmemfs_fuse.core.errors import (
    InterruptedFsError,
    NoDataThereError,
    RegionFullError,
)
from guestmemfs_fuse.core.state import Inode, State
from guestmemfs_fuse.core.types import FILE_MAX_BYTES, Extent, Ino, round_down, round_up
from guestmemfs_fuse.linux import coverage, hwpoison, memory
from guestmemfs_fuse.region import host_memory, huge_policy, tail
from guestmemfs_fuse.region.base import BackingStat, Filled, RegionExtent, RegionFile, RegionUse, Stop
from guestmemfs_fuse.region.freeing import Freeing
from guestmemfs_fuse.region.huge_policy import HugePolicy

PIECE_BYTES: Final = 1 << 30
"""How much is allocated at a time: 2 ms (more where a hypervisor has to find the memory first, 0.3 s in small
pages), after which an interrupt is seen."""
_STRETCH_BYTES: Final = 4 << 30
"""After how much it is seen to that the pages are huge (huge_policy): 0.05 ms, and if some are not, all of it
is gone through."""
_LARGE_BYTES: Final = 256 << 20
"""From here on it is asked whether the host has the memory, rather than found out."""
FREED_AT_ONCE_BYTES: Final = 64 << 20
"""Giving back more than this is left to a thread: a seventh of a millisecond."""
_PMD_BYTES: Final = 2 << 20
NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM)
"""What a filesystem says that is full; a dax region's may have quotas, and no inodes left."""


@dataclass(frozen=True, slots=True)
class _Gap:
    """A run of blocks [start, end) of which `missing_bytes` have no memory."""

    start: int
    end: int
    missing_bytes: int


class BackingFiles(ABC):
    """Base of the kinds with a backing file per inode. Thread safe for different inodes."""

    kind: str
    passthrough = True
    region_file: RegionFile | None = None
    backing_dir_fd: int | None = None

    def __init__(self, block_bytes: int, numa_node: int | None = None) -> None:
        self.block_bytes = block_bytes
        self._numa_node = numa_node
        self.huge_policy: HugePolicy | None = None
        self.freeing = Freeing()

    @abstractmethod
    def create(self, ino: Ino) -> None: ...

    @abstractmethod
    def open_backing(self, ino: Ino) -> int: ...

    @abstractmethod
    def backing_path(self, ino: Ino) -> str:
        """Where another process of root's can open the backing file."""

    @abstractmethod
    def discard(self, inode: Inode) -> None: ...

    @abstractmethod
    def inventory(self) -> Iterator[Ino]: ...

    @abstractmethod
    def use(self) -> RegionUse: ...

    @abstractmethod
    def resize(self, size_bytes: int) -> None: ...

    def release(self, extents: tuple[Extent, ...]) -> None:
        """See Region.release: there are no extents here."""

    def attach(self, state: State) -> None:
        """See OpenRegion: nothing of the state is needed here."""

    def holds_data(self) -> bool:
        """See OpenRegion."""
        return next(iter(self.inventory()), None) is not None

    def available_bytes(self) -> int:
        """What the host could still give to this region."""
        return host_memory.available_bytes(self._numa_node)

    @contextmanager
    def _opened(self, ino: Ino) -> Iterator[int]:
        fd = self.open_backing(ino)
        try:
            yield fd
        finally:
            os.close(fd)

    def foresee(self, inode: Inode, end_bytes: int) -> None:
        """See Region.foresee: backing files have no state."""

    def fill(self, inode: Inode, offset_bytes: int, end_bytes: int, stop: Stop) -> Filled:
        """See Region.fill."""
        start = round_down(offset_bytes, self.block_bytes)
        end = round_up(end_bytes, self.block_bytes)
        with self._opened(inode.ino) as fd:
            gaps = list(self._gaps(fd, start, end))
            self._require_room(sum(gap.missing_bytes for gap in gaps))
            filled: list[tuple[int, int]] = []
            try:
                for gap in gaps:
                    self._fill_gap(fd, gap, stop, filled)
            except BaseException:
                _free(fd, filled)
                raise
        return Filled(tuple(filled))

    def _fill_gap(self, fd: int, gap: _Gap, stop: Stop, filled: list[tuple[int, int]]) -> None:
        """Allocate one gap in pieces; what had no memory at all is noted, so that it can be taken back."""
        was_empty = gap.missing_bytes == gap.end - gap.start
        policy, seen = self.huge_policy, None
        for start in range(gap.start, gap.end, _STRETCH_BYTES):
            end = min(gap.end, start + _STRETCH_BYTES)
            if policy is not None and was_empty:
                seen = seen or huge_policy.read_counters()
            with _no_room_is_full():
                for at in range(start, end, PIECE_BYTES):
                    if stop():
                        raise InterruptedFsError("the caller gave up")
                    length = min(end - at, PIECE_BYTES)
                    if was_empty:
                        filled.append((at, at + length))
                    memory.fallocate(fd, memory.FALLOC_FL_KEEP_SIZE, at, length)
                if policy is not None:
                    seen = policy.see_to(fd, start, end, seen, stop)

    def _gaps(self, fd: int, start: int, end: int) -> Iterator[_Gap]:
        """Runs of blocks in [start, end) that lack memory: empty ones, and single blocks that lack some.

        SEEK_HOLE would not do: it calls memory that nobody has used yet a hole (shmem).
        """
        missing_bytes = end - start - self._backed_bytes(fd, start, end)
        if missing_bytes <= 0:
            return
        if missing_bytes == end - start or end - start <= self.block_bytes:
            yield _Gap(start, end, missing_bytes)
            return
        middle = start + round_up((end - start) // 2, self.block_bytes)
        yield from self._gaps(fd, start, middle)
        yield from self._gaps(fd, middle, end)

    def _backed_bytes(self, fd: int, start: int, end: int) -> int:
        """How much of a range has memory, used or not. Without cachestat(2) (< 6.5) we cannot tell: all."""
        if not os.fstat(fd).st_blocks:
            return 0  # the usual case, a new file: cachestat(2) may wait for statistics of the memory cgroup
        try:
            return coverage.cached_bytes(fd, start, end)
        except OSError as error:
            if error.errno != errno.ENOSYS:
                raise
        return 0 if start >= os.fstat(fd).st_size else min(end - start - 1, os.fstat(fd).st_blocks * 512)

    def _require_room(self, needed_bytes: int) -> None:
        pending_bytes = self.freeing.pending_bytes
        lacking = self._lacking(needed_bytes)
        if lacking and pending_bytes:
            self.freeing.wait()
            lacking = self._lacking(needed_bytes)
        if lacking:
            raise RegionFullError(lacking)

    def _lacking(self, needed_bytes: int) -> str | None:
        free_bytes = self.use().free_bytes - self.freeing.pending_bytes
        if needed_bytes > free_bytes + self.block_bytes - 1:
            return "the region is full"
        if needed_bytes >= _LARGE_BYTES and needed_bytes > self.available_bytes():
            return "the host has no memory left for this"
        return None

    def take_back(self, ino: Ino, filled: Filled) -> None:
        """See Region.take_back."""
        with self._opened(ino) as fd:
            _free(fd, filled.ranges)

    def settle(self, inode: Inode) -> None:
        """See Region.settle."""
        with self._opened(inode.ino) as fd:
            self._trim(fd, inode)
            had_bytes = os.fstat(fd).st_size
            if had_bytes == inode.size_bytes:
                return
            os.ftruncate(fd, inode.size_bytes)
            if had_bytes < inode.size_bytes:
                tail.clear(fd, had_bytes, inode.size_bytes, self.block_bytes)
            else:
                tail.mend(fd, inode.size_bytes, self.block_bytes)

    def _trim(self, fd: int, inode: Inode) -> None:
        """Give back memory behind the blocks the inode reaches, which a cut or a crash left."""
        reach = round_up(max(inode.size_bytes, inode.prealloc_bytes), self.block_bytes)
        status = os.fstat(fd)
        if status.st_blocks * 512 > reach or status.st_size > reach:
            _free_behind(fd, reach)

    def punch(self, inode: Inode, offset_bytes: int, length_bytes: int) -> None:
        """See Region.punch."""
        with self._opened(inode.ino) as fd:
            _free(fd, ((offset_bytes, offset_bytes + length_bytes),))

    def stat(self, inode: Inode) -> BackingStat:
        """See Region.stat."""
        with self._opened(inode.ino) as fd:
            status = os.fstat(fd)
        return BackingStat(status.st_size, status.st_blocks * 512)

    def extents(self, inode: Inode) -> list[RegionExtent]:
        """See Region.extents. A block that lacks only some of its memory counts as having it."""
        end = round_up(max(inode.size_bytes, inode.prealloc_bytes), self.block_bytes)
        found: list[RegionExtent] = []
        at = 0
        with self._opened(inode.ino) as fd:
            empty = [gap for gap in self._gaps(fd, 0, end) if gap.missing_bytes == gap.end - gap.start]
        for start, gap_end in [*((gap.start, gap.end) for gap in empty), (end, end)]:
            if at < start:
                found.append(RegionExtent(at, start - at))
            at = gap_end
        return found

    def layout(self, inode: Inode) -> dict[str, object]:
        """See Region.layout: the backing file, from its beginning."""
        length = round_up(inode.size_bytes, self.block_bytes)
        return {
            "kind": self.kind,
            "page_bytes": self.block_bytes,
            "passthrough": self.passthrough,
            "path": self.backing_path(inode.ino),
            "size_bytes": inode.size_bytes,
            "segments": [[0, 0, length]] if length else [],
        }

    def seek(self, inode: Inode, offset_bytes: int, whence: int) -> int:
        """See Region.seek."""
        with self._opened(inode.ino) as fd:
            try:
                return os.lseek(fd, offset_bytes, whence)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    raise NoDataThereError() from error
                raise

    def poisoned(self, inode: Inode) -> list[tuple[int, int]]:
        """See Region.poisoned: only what was used can have an error that matters."""
        found: list[tuple[int, int]] = []
        with self._opened(inode.ino) as fd:
            for start, end in coverage.data_ranges(fd, inode.size_bytes):
                first, last = round_down(start, _PMD_BYTES), round_up(end, _PMD_BYTES)
                found += hwpoison.poisoned_ranges(fd, first, last, _PMD_BYTES)
        return found

    def huge_bytes(self, inode: Inode) -> int:
        """See Region.huge_bytes."""
        with self._opened(inode.ino) as fd:
            return coverage.file_coverage(fd, inode.size_bytes).huge_bytes


@contextmanager
def _no_room_is_full() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM:
            raise RegionFullError("no memory left for this") from error
        raise


def _free(fd: int, ranges: tuple[tuple[int, int], ...] | list[tuple[int, int]]) -> None:
    mode = memory.FALLOC_FL_PUNCH_HOLE | memory.FALLOC_FL_KEEP_SIZE
    for start, end in ranges:
        memory.fallocate(fd, mode, start, end - start)


def _free_behind(fd: int, start: int) -> None:
    """Free everything from `start` on, wherever it ends: an interrupted allocation may have got far.

    fallocate(2) says EFBIG to an end beyond what the filesystem can address.
    """
    end = FILE_MAX_BYTES
    while end > start:
        try:
            _free(fd, ((start, end),))
            return
        except OSError as error:
            if error.errno != errno.EFBIG:
                raise
        end //= 2
