"""Memory errors: which bytes of which file the kernel has lost, and blocks that must not be used again.

The kernel counts what it took out of use (HardwareCorrupted). As long as that number stands still nothing is
looked at; when it has moved, the files are. That is asked where it matters, and nowhere at intervals: at
start-up, for status and map, and before blocks of a file are given up.

Where files are extents of one region file, blocks with an error are quarantined in the journal: whoever gives
them up, they are not handed out again, and their page is not given back to the pool. Other kinds need none of
that: the kernel never gives a poisoned page to anybody once its file is gone.

Invariants: an error is logged once; looking never touches poisoned memory. Built by the engine.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

import trio

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.errors import FsError
from guestmemfs_fuse.core.state import Inode
from guestmemfs_fuse.core.types import BlockNumber, Extent, Ino
from guestmemfs_fuse.engine.ledger import Ledger
from guestmemfs_fuse.linux import hwpoison
from guestmemfs_fuse.linux.hwpoison import Range
from guestmemfs_fuse.region.base import Region

log = logging.getLogger(__name__)

Poisoned = dict[Ino, list[Range]]
_NOTHING: Final[list[Range]] = []


class Poison:
    """What is known of memory errors in this instance's files."""

    def __init__(
        self, ledger: Ledger, region: Region, corrupted_bytes: Callable[[], int] = hwpoison.corrupted_bytes
    ) -> None:
        self._ledger = ledger
        self._region = region
        self._corrupted_bytes = corrupted_bytes
        self._seen_bytes = 0
        self._found: Poisoned = {}

    @property
    def found(self) -> Poisoned:
        """By inode number, in bytes of the file: what the last look found."""
        return {ino: ranges for ino, ranges in self._found.items() if ino in self._ledger.state.inodes}

    async def look(self) -> Poisoned:
        """Look at every file if the kernel has taken memory out of use since the last time."""
        now_bytes = self._corrupted_bytes()
        if now_bytes != self._seen_bytes:
            files = [inode for inode in self._ledger.state.inodes.values() if inode.is_file]
            found = await trio.to_thread.run_sync(scan, self._region, files)
            await trio.lowlevel.checkpoint_if_cancelled()
            self._seen_bytes = now_bytes
            for ino, ranges in found.items():
                self._note(ino, ranges)
        return self.found

    def look_at(self, inode: Inode) -> None:
        """Before blocks of a file are given up: the same for this file only, at once."""
        if self._region.region_file is not None and self._corrupted_bytes() != self._seen_bytes:
            self._note(inode.ino, scan(self._region, [inode]).get(inode.ino, _NOTHING))

    def _note(self, ino: Ino, ranges: list[Range]) -> None:
        inode = self._ledger.state.inodes.get(ino)
        if inode is None or not ranges or ranges == self._found.get(ino):
            return
        self._found[ino] = ranges
        where = ", ".join(f"{start:#x}-{end:#x}" for start, end in ranges)
        log.error("memory errors in inode %d at %s: who touches these bytes gets SIGBUS", ino, where)
        if self._ledger.state.free is None:
            return
        try:
            self._ledger.commit(cmd.Quarantine(blocks_of_ranges(inode, ranges, self._region.block_bytes)))
        except FsError as error:
            log.error("the blocks of inode %d were not quarantined: %s", ino, error)


def scan(region: Region, inodes: Iterable[Inode]) -> Poisoned:
    """The poisoned ranges of each file that has some. Blocks."""
    found: Poisoned = {}
    for inode in inodes:
        try:
            ranges = region.poisoned(inode)
        except (FsError, OSError) as error:
            log.warning("inode %d cannot be searched for memory errors: %s", inode.ino, error)
            continue
        if ranges:
            found[inode.ino] = ranges
    return found


def blocks_of_ranges(inode: Inode, ranges: list[Range], block_bytes: int) -> tuple[Extent, ...]:
    """The region's blocks that ranges of a file touch, one extent each."""
    numbers = [block for extent in inode.extents for block in range(extent.start, extent.end)]
    touched = {at for start, end in ranges for at in range(start // block_bytes, -(-end // block_bytes))}
    return tuple(Extent(BlockNumber(numbers[at]), 1) for at in sorted(touched) if at < len(numbers))
