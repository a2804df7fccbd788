"""Mend the blocks of a State whose files are extents of one region file: no block twice, none outside.

Pure: says which blocks are to be copied where and sets the extents; bytes are moved by the caller before
the state is stored, into blocks nobody has. Of a block that two files claim each gets one of its own with
the same bytes: which of them is right cannot be known, so neither loses anything.

Called by fsck_offline.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass

from guestmemfs_fuse.core.evolve import join
from guestmemfs_fuse.core.extents import FreeMap
from guestmemfs_fuse.core.state import Inode, State
from guestmemfs_fuse.core.types import BlockNumber, Extent, blocks_of


@dataclass(frozen=True, slots=True)
class Copy:
    """source: the block whose bytes are wanted, None for zeroes."""

    source: BlockNumber | None
    target: BlockNumber


def mend(state: State) -> list[Copy]:
    """Give every file blocks of its own, as far as there is room; returns what is to be copied."""
    if state.free is None:
        return []
    total = state.region_bytes // state.block_bytes
    bad = {block for each in state.quarantined for block in range(each.start, each.end)}
    claimed = {block for inode in state.inodes.values() for block in _blocks(inode)}
    free = [BlockNumber(block) for block in range(total - 1, -1, -1) if block not in claimed | bad]
    taken: set[int] = set()
    copies: list[Copy] = []
    for _, inode in sorted(state.inodes.items()):
        inode.extents = _own_blocks(inode, total, taken, free, copies)
        _reach(inode, state.block_bytes, taken, free, copies)
    if len(taken) == sum(inode.block_count for inode in state.inodes.values()):
        used = [extent for inode in state.inodes.values() for extent in inode.extents]
        state.free = FreeMap(total, used, sorted(BlockNumber(block) for block in bad if block < total))
    return copies


def _blocks(inode: Inode) -> list[BlockNumber]:
    return [BlockNumber(block) for each in inode.extents for block in range(each.start, each.end)]


def _own_blocks(
    inode: Inode, total: int, taken: set[int], free: list[BlockNumber], copies: list[Copy]
) -> tuple[Extent, ...]:
    """The file's blocks in order; what is outside or another's is replaced, as far as there is room."""
    own: list[Extent] = []
    for block in _blocks(inode):
        outside = not 0 <= block < total
        if (outside or block in taken) and free:
            target = free.pop()
            copies.append(Copy(None if outside else block, target))
            block = target
        taken.add(block)
        own.append(Extent(block, 1))
    return join(tuple(own))


def _reach(
    inode: Inode, block_bytes: int, taken: set[int], free: list[BlockNumber], copies: list[Copy]
) -> None:
    """Blocks for all of the file's size; where there are none left, the size ends with the blocks."""
    if not inode.is_file:
        return
    missing = blocks_of(max(inode.size_bytes, inode.prealloc_bytes), block_bytes) - inode.block_count
    added = [free.pop() for _ in range(min(max(0, missing), len(free)))]
    taken.update(added)
    copies += [Copy(None, block) for block in added]
    inode.extents = join(inode.extents + tuple(Extent(block, 1) for block in added))
    if len(added) < missing:
        end_bytes = inode.block_count * block_bytes
        inode.size_bytes = min(inode.size_bytes, end_bytes)
        inode.prealloc_bytes = min(inode.prealloc_bytes, end_bytes)


def copy_blocks(region_path: str, block_bytes: int, copies: list[Copy]) -> None:
    """Carry the copies out in the region file (hugetlbfs has no write(2), so through a mapping)."""
    if not copies:
        return
    with open(region_path, "r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        for copy in copies:
            start = copy.target * block_bytes
            if copy.source is None:
                memory[start : start + block_bytes] = bytes(block_bytes)
            else:
                source = copy.source * block_bytes
                memory.move(start, source, block_bytes)
