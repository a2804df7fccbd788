"""Make region and state agree again after a daemon died between journal and effect.

The journal is the truth. What a record asked of the region is done right behind its journal write, so only
the last transactions can be without their effect; those inodes are settled before the first request is
served. What an interrupted allocation left over (memory behind a file's blocks, backing files of creates
nobody was told about) is given back by a full sweep in a thread, while requests are already served.

Called by the daemon at start-up, and by fsck --repair.
"""

from __future__ import annotations

import logging
from itertools import islice
from typing import Final

from guestmemfs_fuse.core.errors import FsError
from guestmemfs_fuse.core.state import Inode, State
from guestmemfs_fuse.core.types import Ino, round_up
from guestmemfs_fuse.region.base import Region

log = logging.getLogger(__name__)

_TAIL: Final = 256
"""Inodes of this many last requests are settled at start: more than were ever in flight behind a commit."""


def made_last(state: State) -> set[Ino]:
    """What the last requests made or changed: their answers may not have reached the kernel."""
    return {state.recent[unique] for unique in islice(reversed(state.recent), _TAIL)}


def nameless_last(state: State) -> set[Ino]:
    """O_TMPFILE files of the last requests that nobody has touched: their callers may not have them yet.

    Whatever had a name, a size or other attributes since had a user, who had it from the kernel.
    """
    return {ino for ino in made_last(state) & state.orphans if _is_untouched(state.inodes[ino])}


def _is_untouched(inode: Inode) -> bool:
    grown = inode.size_bytes or inode.prealloc_bytes
    return inode.is_file and not grown and inode.atime_ns == inode.mtime_ns == inode.ctime_ns


def settle_tail(state: State, region: Region) -> int:
    """Settle the files of the last requests; returns how many differed. O(1), whatever the instance holds."""
    files = [
        inode for ino in made_last(state) if (inode := state.inodes.get(ino)) is not None and inode.is_file
    ]
    return sum(_settle(region, inode) for inode in files)


def scan(files: list[Inode], region: Region) -> tuple[list[Ino], list[Ino]]:
    """Compare every file with its backing: inodes that differ, and backings without an inode.

    Reads only, so that it can run in a thread beside live traffic; what it finds is looked at again,
    under the inode's lock, before anything is done.
    """
    known = {inode.ino for inode in files}
    differing = [inode.ino for inode in files if _differs_or_gone(region, inode)]
    return differing, [ino for ino in region.inventory() if ino not in known]


def settle(state: State, region: Region, ino: Ino) -> bool:
    """Bring one backing back to what the journal says; whether there was something to do."""
    inode = state.inodes.get(ino)
    return inode is not None and inode.is_file and _settle(region, inode)


def discard_stray(state: State, region: Region, ino: Ino) -> bool:
    """Remove a backing nobody was told about: those are empty. What holds memory is fsck's business."""
    if ino in state.inodes:
        return False
    stray = Inode(ino, 0o100600, 0, 0, 0, 0, 0, 0)
    try:
        allocated_bytes = region.stat(stray).allocated_bytes
    except FsError:
        return False  # callers go on beside the scan: it was made and removed since
    if allocated_bytes:
        log.warning("the backing file of inode %d belongs to no file; guestmemfs fsck says more", ino)
        return False
    region.discard(stray)
    return True


def differs(region: Region, inode: Inode) -> bool:
    """Whether the backing does not agree with the inode."""
    status = region.stat(inode)
    reach = round_up(max(inode.size_bytes, inode.prealloc_bytes), region.block_bytes)
    return status.size_bytes != inode.size_bytes or status.allocated_bytes > reach


def _differs_or_gone(region: Region, inode: Inode) -> bool:
    try:
        return differs(region, inode)
    except FsError:
        return True  # reaped meanwhile, or fsck's business: settling says which


def _settle(region: Region, inode: Inode) -> bool:
    try:
        if not differs(region, inode):
            return False
        region.settle(inode)
    except FsError as error:
        if inode.nlink:  # an orphan may have lost its memory already: it is about to be reaped
            log.error("inode %d: %s", inode.ino, error)
        return False
    return True
