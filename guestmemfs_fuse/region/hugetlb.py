"""Guaranteed huge pages: one region file on a hugetlbfs mount of our own; files are extents in it.

All pages are reserved when the mount is made (min_size), so no fault in a guest can ever fail for want of
a page. Which block belongs to which file is core's (State.free, Inode.extents); here bytes are moved.
Freed blocks are punched out before anybody else can have them: a new page comes zeroed from the kernel.
Quarantined ones are not: the kernel would put the poisoned page into the pool, and count it as ours.

A region bound to a NUMA node has its blocks' pages brought in when a file gets them: the reservation is the
whole host's, and later faults would follow the policy of whoever touches them.

The kernel refuses hugetlbfs as a passthrough backing (ELOOP: its stack depth is the maximum), so these files
are mapped by `guestmemfs run`, or by QEMU's own offset=. To mmap(2) through the mount the answer is ENODEV,
shared and private alike: opens are given a backing file that cannot be mapped (fs/kernfs/file.c).

Called by region/choose.py and the engine.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from typing import Final

from guestmemfs_fuse.core.errors import NoDataThereError, RegionFullError, UnsupportedError
from guestmemfs_fuse.core.state import Inode, State
from guestmemfs_fuse.core.types import BlockNumber, Extent, Ino, blocks_of
from guestmemfs_fuse.linux import hwpoison, memory
from guestmemfs_fuse.region.base import BackingStat, Filled, RegionExtent, RegionFile, RegionUse, Stop
from guestmemfs_fuse.region.freeing import Freeing
from guestmemfs_fuse.region.hugetlb_pages import RegionPages

log = logging.getLogger(__name__)

REGION_FILE: Final = "region"
_UNMAPPABLE_PATH: Final = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
"""A regular file whose mmap is refused with ENODEV and which the kernel accepts as a backing file. Reads and
writes never reach it: every open has FOPEN_DIRECT_IO, so they come to us and are refused."""


class HugetlbRegion:
    """A region in one hugetlbfs file. Owns its descriptor."""

    kind = "hugetlb"
    passthrough = False
    backing_dir_fd: int | None = None

    def __init__(
        self,
        root_path: str,
        metadata_path: str,
        size_bytes: int,
        block_bytes: int,
        numa_node: int | None = None,
    ) -> None:
        self.root_path = root_path
        self.metadata_path = metadata_path
        self.size_bytes = size_bytes
        self.block_bytes = block_bytes
        self.path = os.path.join(root_path, REGION_FILE)
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.ftruncate(self._fd, size_bytes)
        status = os.fstat(self._fd)
        self.region_file: RegionFile | None = RegionFile(
            (os.major(status.st_dev), os.minor(status.st_dev)), status.st_ino
        )
        self._pages = RegionPages(self._fd, block_bytes, numa_node)
        self._state: State | None = None
        self._foreseen: dict[Ino, tuple[Extent, ...]] = {}
        self.freeing = Freeing()

    def attach(self, state: State) -> None:
        """Use the block accounting of `state` from now on; pages of free blocks go back to the pool."""
        self._state = state
        assert state.free is not None
        self.release(state.free.free_extents())

    def holds_data(self) -> bool:
        """Whether any page of the region was ever used."""
        return os.fstat(self._fd).st_blocks > 0

    def handover_fds(self) -> dict[str, list[int]]:
        """See OpenRegion: the path is enough."""
        return {}

    def close(self) -> None:
        """Let go of the region file; its mount keeps it."""
        os.close(self._fd)

    def create(self, ino: Ino) -> None:
        """See Region.create: a file without blocks is nothing here."""

    def open_backing(self, ino: Ino) -> int:
        """See Region.open_backing: what makes mmap(2) through the mount fail with ENODEV."""
        return os.open(_UNMAPPABLE_PATH, os.O_RDWR | os.O_CLOEXEC)

    def foresee(self, inode: Inode, end_bytes: int) -> None:
        """See Region.foresee: which blocks the commit will choose, as long as nothing comes in between."""
        if self._pages.numa_node is None:
            return
        assert self._state is not None and self._state.free is not None
        needed = blocks_of(end_bytes, self.block_bytes) - inode.block_count
        last = inode.extents[-1].end if inode.extents else None
        found = self._state.free.find(needed, after=last) if needed > 0 else ()
        self._foreseen[inode.ino] = found

    def fill(self, inode: Inode, offset_bytes: int, end_bytes: int, stop: Stop) -> Filled:
        """See Region.fill: the pages are reserved; only a NUMA node may have none left."""
        # What a program stored behind the end, or a cut left there, must not show when the file grows.
        self._zero(inode, inode.size_bytes, end_bytes)
        ranges = tuple(map(self._range, self._foreseen.pop(inode.ino, ())))
        try:
            for start, end in ranges:
                self._pages.bring_in(start, end - start, stop)
        except BaseException:
            self.take_back(inode.ino, Filled(ranges))
            raise
        return Filled(ranges)

    def _zero(self, inode: Inode, start_bytes: int, end_bytes: int) -> None:
        """Let bytes [start, end) of a file, as far as it has blocks for them, read as zero."""
        for piece in self.extents(inode):
            assert piece.region_offset_bytes is not None
            start = max(start_bytes, piece.offset_bytes)
            end = min(end_bytes, piece.offset_bytes + piece.length_bytes)
            if start < end:
                shift = piece.region_offset_bytes - piece.offset_bytes
                self._pages.punch(start + shift, end - start)

    def take_back(self, ino: Ino, filled: Filled) -> None:
        """See Region.take_back. The ranges are the region's."""
        for start, end in filled.ranges:
            self._pages.punch(start, end - start)

    def settle(self, inode: Inode) -> None:
        """See Region.settle: nothing follows the inode's size. What was cut is punched by `release`."""
        if self._pages.numa_node is not None:
            self._bring_in(inode.extents)

    def _bring_in(self, extents: tuple[Extent, ...]) -> None:
        """What a change in between, a crash or a punch left without its page on the node."""
        try:
            for start, end in map(self._range, extents):
                self._pages.bring_in(start, end - start, lambda: False)
        except RegionFullError as error:
            log.warning("%s: some will come from elsewhere when they are touched", error.message)

    def release(self, extents: tuple[Extent, ...]) -> None:
        """Blocks that belong to no file any more: whoever gets them next finds zeroes."""
        bad = self._state.quarantined if self._state is not None else ()
        for extent in without(extents, bad):
            start, end = self._range(extent)
            self._pages.punch(start, end - start)

    def _range(self, extent: Extent) -> tuple[int, int]:
        return extent.start * self.block_bytes, extent.end * self.block_bytes

    def punch(self, inode: Inode, offset_bytes: int, length_bytes: int) -> None:
        """See Region.punch: whole pages go back to the pool but stay reserved for this file.

        On a NUMA node they are brought in again at once: another node's page might come otherwise.
        """
        self._zero(inode, offset_bytes, offset_bytes + length_bytes)
        if self._pages.numa_node is not None:
            self._bring_in(inode.extents)

    def discard(self, inode: Inode) -> None:
        """See Region.discard: a page goes back at once, 0.4 ms a GiB."""
        self.release(inode.extents)

    def stat(self, inode: Inode) -> BackingStat:
        """See Region.stat: the blocks of a file are its own, whether touched or not."""
        return BackingStat(inode.size_bytes, inode.block_count * self.block_bytes)

    def extents(self, inode: Inode) -> list[RegionExtent]:
        """See Region.extents."""
        found: list[RegionExtent] = []
        at = 0
        for extent in inode.extents:
            length = extent.count * self.block_bytes
            found.append(RegionExtent(at, length, extent.start * self.block_bytes))
            at += length
        return found

    def seek(self, inode: Inode, offset_bytes: int, whence: int) -> int:
        """See Region.seek: all of the file is data."""
        if offset_bytes >= inode.size_bytes or offset_bytes < 0:
            raise NoDataThereError()
        return offset_bytes if whence == os.SEEK_DATA else inode.size_bytes

    def use(self) -> RegionUse:
        """See Region.use: blocks that belong to files, and those withheld for memory errors."""
        assert self._state is not None and self._state.free is not None
        free_bytes = self._state.free.free_blocks * self.block_bytes
        return RegionUse(self.size_bytes, self.size_bytes - free_bytes)

    def huge_bytes(self, inode: Inode) -> int:
        """See Region.huge_bytes: hugetlbfs has no other pages."""
        return inode.block_count * self.block_bytes

    def poisoned(self, inode: Inode) -> list[tuple[int, int]]:
        """See Region.poisoned. Blocks that were never used get their page by being looked at."""
        found: list[tuple[int, int]] = []
        with memory.allocating_on(self._pages.numa_node):
            for piece in self.extents(inode):
                assert piece.region_offset_bytes is not None
                start, shift = piece.region_offset_bytes, piece.offset_bytes - piece.region_offset_bytes
                bad = hwpoison.poisoned_ranges(self._fd, start, start + piece.length_bytes, self.block_bytes)
                found += [(at + shift, end + shift) for at, end in bad]
        return found

    def inventory(self) -> Iterator[Ino]:
        """See Region.inventory: files have no backings of their own."""
        return iter(())

    def resize(self, size_bytes: int) -> None:
        """See Region.resize: a hugetlbfs mount has the size it was made with."""
        raise UnsupportedError(
            "a hugetlb region cannot change its size",
            hint="mount a second instance; hugetlbfs takes its size once, at mount time",
        )

    def layout(self, inode: Inode) -> dict[str, object]:
        """See Region.layout."""
        return {
            "kind": self.kind,
            "page_bytes": self.block_bytes,
            "passthrough": self.passthrough,
            "path": self.path,
            "size_bytes": inode.size_bytes,
            "segments": [
                [piece.offset_bytes, piece.region_offset_bytes, piece.length_bytes]
                for piece in self.extents(inode)
            ],
        }


def without(extents: tuple[Extent, ...], bad: tuple[Extent, ...]) -> Iterator[Extent]:
    """Extents with the blocks of others cut out."""
    cuts = sorted(bad, key=lambda extent: extent.start)
    for extent in extents:
        at = extent.start
        for cut in cuts:
            if cut.end <= at or cut.start >= extent.end:
                continue
            if cut.start > at:
                yield Extent(at, cut.start - at)
            at = cut.end
        if at < extent.end:
            yield Extent(BlockNumber(at), extent.end - at)
