"""Backing ids: which number the kernel knows each inode's backing file by.

One id per inode for as long as the kernel holds the inode; the id is journaled before the open is
answered, because the next daemon on the same connection must use the same one (an open with another id
fails with EIO while any file is open or mapped). An id keeps the backing file's memory alive, so it is
given back when the kernel forgets the inode.

Called by fuse/operations (open, create) and engine/orphans.
"""

from __future__ import annotations

import os

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.types import BackingId, Ino
from guestmemfs_fuse.engine.kernel import Kernel
from guestmemfs_fuse.engine.ledger import Ledger
from guestmemfs_fuse.engine.punches import Punches
from guestmemfs_fuse.region.base import Region


class Backings:
    """Registers backing files with the kernel, once per inode."""

    def __init__(self, ledger: Ledger, region: Region, kernel: Kernel, punches: Punches) -> None:
        self._ledger = ledger
        self._region = region
        self._kernel = kernel
        self._punches = punches

    def ensure(self, ino: Ino) -> BackingId | None:
        """The inode's backing id, registered if it is not yet; None where the kernel has no passthrough.

        Raises FsError when the id cannot be journaled, OSError when the kernel refuses the file.
        """
        if not self._kernel.has_passthrough:
            return None
        known = self._ledger.state.inodes[ino].backing_id
        if known is not None:
            return known
        fd = self._region.open_backing(ino)
        try:
            return self._register(ino, fd)
        finally:
            os.close(fd)

    def _register(self, ino: Ino, backing_fd: int) -> BackingId:
        backing_id = self._kernel.backing_open(backing_fd)
        try:
            self._ledger.commit(cmd.OpenBacking(ino, backing_id))
        except BaseException:
            self._kernel.backing_close(backing_id)
            raise
        self._punches.watch(ino, backing_fd)
        return backing_id

    def release(self, ino: Ino) -> None:
        """Give the id back; only when the kernel does not hold the inode any more."""
        backing_id = self._ledger.state.inodes[ino].backing_id
        if backing_id is not None:
            self._ledger.commit(cmd.CloseBacking(ino))
            self._punches.unwatch(ino)
            self._kernel.backing_close(backing_id)

    def of(self, ino: int) -> BackingId | None:
        """The id to put into an open reply that passes by, or None."""
        inode = self._ledger.state.inodes.get(Ino(ino))
        return inode.backing_id if inode is not None else None
