"""What a repair that could not reach the memory leaves to the next daemon: sizes follow the backings.

The memory of a stopped memfd region is descriptors that only a daemon is given. When its metadata was
salvaged, records of sizes may be lost, and a daemon that brings backings back to what the journal says would
cut live memory off. So the repair leaves a mark beside the metadata, and the daemon that finds it first
believes the memory. Called by fsck_offline and storage.
"""

from __future__ import annotations

import logging
import time
from typing import Final

from guestmemfs_fuse.core import evolve
from guestmemfs_fuse.core import records as rec
from guestmemfs_fuse.core.errors import FsError
from guestmemfs_fuse.core.state import Inode, State
from guestmemfs_fuse.core.types import round_up
from guestmemfs_fuse.engine import recovery
from guestmemfs_fuse.engine.ledger import Journal
from guestmemfs_fuse.metadata import atomic
from guestmemfs_fuse.metadata.files import Files
from guestmemfs_fuse.region.base import Region

log = logging.getLogger(__name__)

MARK: Final = "sizes-follow-the-memory"


def leave_to_the_daemon(files: Files) -> None:
    """Put the mark there, durably. Twice is harmless. Raises MetadataFullError, MetadataWriteError."""
    if MARK in files.names():
        return
    with atomic.write_errors("leave a mark"):
        files.create(MARK).close()
        files.sync()


def follow_the_memory(files: Files, state: State, journal: Journal, region: Region) -> int:
    """Give files the sizes of their backings, if a repair said so; returns how many had others.

    Before the first request. A crash in between leaves the mark, and another daemon begins again. Raises
    FsError, OSError.
    """
    if MARK not in files.names():
        return 0
    changed = [record for inode in state.inodes.values() if (record := resized(region, inode)) is not None]
    for record in changed:
        transaction = rec.Transaction((record,))
        journal.append(transaction)
        evolve.apply(state, transaction)
        log.warning("inode %d has %d bytes: its record was damaged", record.ino, record.size_bytes)
    files.unlink(MARK)
    return len(changed)


def resized(region: Region, inode: Inode) -> rec.Resized | None:
    """What makes the file as large as its memory, None when it is, or has none."""
    try:
        if not inode.is_file or not recovery.differs(region, inode):
            return None
        status = region.stat(inode)
    except FsError:
        return None
    reach = round_up(status.size_bytes, region.block_bytes)
    beyond = status.allocated_bytes if status.allocated_bytes > reach else 0
    return rec.Resized(inode.ino, status.size_bytes, beyond, time.time_ns())
