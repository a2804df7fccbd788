"""Backing ids: which number the kernel knows each inode's backing file by.

One id per inode for as long as the kernel holds the inode; the id is journaled before the open is
answered, because the next daemon on the same connection must use the same one (an open with another id
fails with EIO while any file is open or mapped). An id keeps the backing file's memory alive, so it is
given back when the kernel forgets the inode.

Called by fuse/operations (open), the engine (make, sweep) and engine/reaping.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Final

import trio

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.errors import FsError
from guestmemfs_fuse.core.types import BackingId, Ino
from guestmemfs_fuse.engine.kernel import Kernel
from guestmemfs_fuse.engine.ledger import Ledger, Origin
from guestmemfs_fuse.engine.punches import Punches
from guestmemfs_fuse.region.base import Region

log = logging.getLogger(__name__)

_IDS_LOOKED_AT: Final = 1 << 16
_IDS_AT_ONCE: Final = 1 << 10


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
        with self._registered(ino) as backing_id:
            self._ledger.commit(cmd.OpenBacking(ino, backing_id))
        return backing_id

    def make(self, command: cmd.Make, origin: Origin | None) -> Ino:
        """Make a file that is open from the start: its id is journaled with it, both or neither.

        Its backing is there already. Raises as `ensure`, and FsError when the command is refused.
        """
        if not self._kernel.has_passthrough:
            return self._ledger.commit(command, origin)
        with self._registered(self._ledger.state.next_ino) as backing_id:
            return self._ledger.commit(replace(command, backing_id=backing_id), origin)

    @contextmanager
    def _registered(self, ino: Ino) -> Iterator[BackingId]:
        """An id for the inode's backing; it stays the kernel's when the block journals it."""
        fd = self._region.open_backing(ino)
        try:
            backing_id = self._kernel.backing_open(fd)
            try:
                yield backing_id
            except BaseException as error:
                # In doubt the next daemon may read that this is the file's id; if not, it gives it back.
                if not (isinstance(error, FsError) and error.in_doubt):
                    self._kernel.backing_close(backing_id)
                raise
            self._punches.watch(ino, fd)
        finally:
            os.close(fd)

    def give_back(self, ino: Ino, backing_id: BackingId) -> None:
        """After the journal has let go of an id: only when the kernel does not hold the inode any more."""
        self._punches.unwatch(ino)
        try:
            self._kernel.backing_close(backing_id)
        except OSError as error:
            log.warning("backing id %d stays until the next daemon: %s", backing_id, error)

    async def close_unknown(self) -> int:
        """Give back ids that a daemon before us had got, or was giving back, when it was killed.

        The kernel cannot be asked which there are, but it counts them upwards (fs/fuse/passthrough.c uses
        idr_alloc_cyclic), so a new one shows where they end. Kept, they would keep the memory of files that
        are removed later. Returns how many there were at most.
        """
        if not self._kernel.has_passthrough:
            return 0
        end = self._probe()
        # Whatever is registered while we are at it has a higher number.
        known = {inode.backing_id for inode in self._ledger.state.inodes.values()}
        for first in range(max(1, end - _IDS_LOOKED_AT), end, _IDS_AT_ONCE):
            for number in range(first, min(end, first + _IDS_AT_ONCE)):
                if BackingId(number) not in known:
                    self._kernel.backing_close(BackingId(number))
            await trio.lowlevel.checkpoint()
        return end - 1

    def _probe(self) -> BackingId:
        """The number the kernel gives out now."""
        fd = os.memfd_create("guestmemfs-probe", os.MFD_CLOEXEC)
        try:
            backing_id = self._kernel.backing_open(fd)
        finally:
            os.close(fd)
        self._kernel.backing_close(backing_id)
        return backing_id

    def of(self, ino: int) -> BackingId | None:
        """The id to put into an open reply that passes by, or None."""
        inode = self._ledger.state.inodes.get(Ino(ino))
        return inode.backing_id if inode is not None else None
