"""Letting go of inodes the kernel has dropped: memory, records and backing ids of many at a time.

In this order, since a crash may come after every step. The memory first: nobody can reach it any more, and
what is left is an orphan, which the next daemon reaps; the other way round memory would be left that belongs
to nobody. Then one transaction for all of them: one write, and on dax one wait for the disk. Then the backing
ids: those the journal does not have any more are given back by the next daemon (Backings.close_unknown);
one that the journal has and the kernel has not would make every open of its file fail.

Called by engine/orphans only.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.errors import FsError
from guestmemfs_fuse.core.state import Inode
from guestmemfs_fuse.core.types import BackingId, Ino
from guestmemfs_fuse.engine.backings import Backings
from guestmemfs_fuse.engine.ledger import Ledger
from guestmemfs_fuse.engine.poison import Poison
from guestmemfs_fuse.region.base import Region

log = logging.getLogger(__name__)


class Reaping:
    """Owns nothing. `reaped` counts the inodes that are gone for good."""

    def __init__(self, ledger: Ledger, region: Region, backings: Backings, poison: Poison) -> None:
        self._ledger = ledger
        self._region = region
        self._backings = backings
        self._poison = poison
        self.reaped = 0

    def let_go(self, inodes: Iterable[Inode], *, unmapped: bool = False) -> bool:
        """Reap those without names, and forget the backing ids of all; the kernel must not hold any.

        unmapped: nobody maps their blocks of the region file either. Returns whether some stay until that is
        known, which takes longer than may be spent here. One that cannot go does not keep the others, nor
        fail the status or statfs that asks for it.
        """
        commands: dict[Ino, cmd.Command] = {}
        ids: dict[Ino, BackingId] = {}
        perhaps_mapped = False
        for inode in inodes:
            if self._may_go(inode):
                if self._region.region_file is not None and inode.extents and not unmapped:
                    perhaps_mapped = True
                elif self._give_up(inode):
                    commands[inode.ino] = cmd.Reap(inode.ino)
            if inode.backing_id is not None:
                commands.setdefault(inode.ino, cmd.CloseBacking(inode.ino))
                ids[inode.ino] = inode.backing_id
        try:
            self._ledger.commit_all(commands)
        except FsError as error:
            log.warning("%d unused inodes stay for now: %s", len(commands), error)
            return perhaps_mapped
        self.reaped += sum(isinstance(command, cmd.Reap) for command in commands.values())
        for ino, backing_id in ids.items():
            self._backings.give_back(ino, backing_id)
        self._region.freeing.begin()
        return perhaps_mapped

    def _may_go(self, inode: Inode) -> bool:
        state = self._ledger.state
        return inode.ino in state.orphans and not state.frozen

    def _give_up(self, inode: Inode) -> bool:
        try:
            if inode.is_file:
                self._poison.look_at(inode)
                self._region.discard(inode)
        except (FsError, OSError) as error:
            log.warning("inode %d stays for now: %s", inode.ino, error)
            return False
        return True
