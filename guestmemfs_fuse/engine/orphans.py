"""Inodes without names: kept until their last user is gone, then reaped with their memory.

The kernel says FORGET when it drops an inode, but a FORGET that a dying daemon had read is lost, and a
new daemon does not know the lookup counts. So nothing is counted: whether an orphan may go is asked of
the kernel itself (Kernel.knows), after a FORGET, at start-up, and when memory runs short.

Called by the relay (forget), by engine/memory (room) and at start-up.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.errors import FsError
from guestmemfs_fuse.core.state import Inode
from guestmemfs_fuse.core.types import Ino
from guestmemfs_fuse.engine import mappings
from guestmemfs_fuse.engine.backings import Backings
from guestmemfs_fuse.engine.kernel import Kernel
from guestmemfs_fuse.engine.ledger import Ledger
from guestmemfs_fuse.region.base import Region

log = logging.getLogger(__name__)


class Orphans:
    """Reaps inodes that have neither name nor user."""

    def __init__(self, ledger: Ledger, region: Region, kernel: Kernel, backings: Backings) -> None:
        self._ledger = ledger
        self._region = region
        self._kernel = kernel
        self._backings = backings
        self._unborn: set[int] = set()
        self.reaped = 0

    def expected(self, ino: Ino) -> None:
        """An inode was made without a name (O_TMPFILE): the kernel will hold it once it has our reply.

        Until its FORGET comes, that the kernel does not know it means only that the reply is on its way.
        """
        self._unborn.add(ino)

    def forgotten(self, inos: Iterable[int]) -> None:
        """The kernel dropped references: give back backing ids, reap what has no name."""
        listed = list(inos)
        self._unborn.difference_update(listed)
        self._reap_unused(listed)

    def _reap_unused(self, inos: Iterable[int]) -> None:
        state = self._ledger.state
        for number in inos:
            inode = state.inodes.get(Ino(number))
            if inode is None or (inode.backing_id is None and inode.nlink) or self._kernel.knows(inode.ino):
                continue
            try:
                self._let_go(inode.ino)
            except FsError as error:
                log.warning("inode %d stays for now: %s", inode.ino, error)

    def sweep(self) -> int:
        """Reap every orphan the kernel does not hold; returns how many."""
        before = self.reaped
        self._reap_unused(self._ledger.state.orphans - self._unborn)
        return self.reaped - before

    def _is_mapped(self, inode: Inode) -> bool:
        """Where blocks are shared out of one region file the kernel's inode does not count its mappings."""
        if self._region.region_file is None or not inode.extents:
            return False
        return bool(mappings.mapped_beyond(mappings.viewpoint((), self._region), inode, 0))

    def _let_go(self, ino: Ino) -> None:
        state = self._ledger.state
        inode = state.inodes[ino]
        self._backings.release(ino)
        if ino in state.orphans and not state.frozen and not self._is_mapped(inode):
            self._ledger.commit(cmd.Reap(ino))
            if inode.is_file:
                self._region.discard(inode)
            self.reaped += 1
