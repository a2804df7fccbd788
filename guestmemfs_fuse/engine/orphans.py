"""Inodes without names: kept until their last user is gone, then reaped with their memory.

The kernel says FORGET when it drops an inode, but a FORGET that a dying daemon had read is lost, and a
new daemon does not know the lookup counts. So nothing is counted: whether an orphan may go is asked of
the kernel itself (Kernel.knows), after a FORGET, at start-up, and when memory runs short. One kind of orphan
the kernel may know only later: an O_TMPFILE file whose caller has not picked the answer up (`expected`).

Where files are extents of one region file (hugetlb), that is not all: `guestmemfs run` maps the region file,
so the kernel drops the inode while a guest still uses its blocks. Who does is found in /proc (in a thread),
and their end is waited for (pidfd_open(2)): no memory stays behind, and nothing ever looks at intervals. Who
only unmaps, and lives on, is noticed at the next FORGET, status, statfs or lack of room.

Called by the relay (forget), engine/memory (room), control (status) and at start-up; run() is a task of the
daemon.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import trio

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.errors import FsError
from guestmemfs_fuse.core.state import Inode
from guestmemfs_fuse.core.types import Ino
from guestmemfs_fuse.engine import mappings, recovery
from guestmemfs_fuse.engine.backings import Backings
from guestmemfs_fuse.engine.kernel import Kernel
from guestmemfs_fuse.engine.ledger import Ledger
from guestmemfs_fuse.engine.poison import Poison
from guestmemfs_fuse.region.base import Region

log = logging.getLogger(__name__)

_MOST_WATCHED: Final = 256
"""Processes whose end is waited for at the same time; there is a descriptor for each."""

_AT_ONCE: Final = 64
"""Forgotten inodes that are dealt with in one go, a few milliseconds; callers wait meanwhile."""

_PICKED_UP_S: Final = 5.0
"""Within which a caller has picked up what the daemon before us answered: it was woken before we began."""


class Orphans:
    """Reaps inodes that have neither name nor user."""

    def __init__(
        self,
        ledger: Ledger,
        region: Region,
        kernel: Kernel,
        backings: Backings,
        poison: Poison,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ledger = ledger
        self._region = region
        self._kernel = kernel
        self._backings = backings
        self._poison = poison
        self._unborn: set[int] = set()
        # The same of the daemon before us. A FORGET may have died with it, and a caller who was killed does
        # not ask again: so these are spared for a while only.
        self._perhaps_unborn: set[int] = set(recovery.nameless_last(ledger.state))
        self._clock = clock
        self._picked_up_at_s = clock() + _PICKED_UP_S
        self.reaped = 0
        self._forgotten: deque[int] = deque()
        self._more_forgotten = trio.Event()
        self._due = trio.Event()
        self._watched: set[int] = set()

    def expected(self, ino: Ino) -> None:
        """An inode was made without a name (O_TMPFILE): the kernel will hold it once it has our reply.

        Until its FORGET comes (call `forgotten` when there will be no such reply), that the kernel does not
        know it means only that the reply is on its way.
        """
        self._unborn.add(ino)

    def forgotten(self, inos: Iterable[int]) -> None:
        """The kernel dropped references: give back backing ids, reap what has no name.

        When it drops its whole cache it says so of 65,000 inodes at once: most of them are left to run().
        """
        listed = list(inos)
        self._unborn.difference_update(listed)
        self._reap_unused(listed[:_AT_ONCE])
        if len(listed) > _AT_ONCE:
            self._forgotten.extend(listed[_AT_ONCE:])
            self._more_forgotten.set()

    @property
    def behind(self) -> bool:
        """Whether forgotten inodes wait for run(): a successor must look at every orphan then."""
        return bool(self._forgotten)

    def _reap_unused(self, inos: Iterable[int]) -> None:
        state = self._ledger.state
        for number in inos:
            inode = state.inodes.get(Ino(number))
            if inode is None or (inode.backing_id is None and inode.nlink) or self._kernel.knows(inode.ino):
                continue
            self._try_let_go(inode.ino)

    def sweep(self) -> int:
        """Reap every orphan the kernel does not hold; returns how many. Some are left to run()."""
        before = self.reaped
        self._reap_unused(self._born())
        return self.reaped - before

    def _born(self) -> set[Ino]:
        """The orphans of which the kernel's word is final."""
        if self._perhaps_unborn and self._clock() > self._picked_up_at_s:
            self._perhaps_unborn.clear()
        return self._ledger.state.orphans - self._unborn - self._perhaps_unborn

    async def reap(self) -> int:
        """As sweep, and those of the region file whose blocks nobody maps; returns how many went."""
        before = self.reaped
        self.sweep()
        await self._reap_unmapped()
        return self.reaped - before

    async def run(self) -> None:
        """Reap what many forgets left, and what processes map now as soon as they have ended; for ever."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._reap_forgotten)
            if self._region.region_file is not None:
                nursery.start_soon(self._reap_released, nursery)

    async def _reap_forgotten(self) -> None:
        while True:
            await self._more_forgotten.wait()
            self._more_forgotten = trio.Event()
            while self._forgotten:
                await trio.lowlevel.checkpoint()
                count = min(_AT_ONCE, len(self._forgotten))
                self._reap_unused([self._forgotten.popleft() for _ in range(count)])

    async def _reap_released(self, nursery: trio.Nursery) -> None:
        if self._ledger.state.orphans:
            self._due.set()
        while True:
            await self._due.wait()
            self._due = trio.Event()
            for pid in await self._reap_unmapped():
                if pid not in self._watched and len(self._watched) < _MOST_WATCHED:
                    self._watched.add(pid)
                    nursery.start_soon(self._wait_for_end, pid)

    async def _wait_for_end(self, pid: int) -> None:
        try:
            pidfd = os.pidfd_open(pid)
        except OSError as error:
            self._watched.discard(pid)
            if not isinstance(error, ProcessLookupError):
                log.warning("the end of process %d will not be noticed: %s", pid, error)
                return
        else:
            try:
                await trio.lowlevel.wait_readable(pidfd)
            finally:
                os.close(pidfd)
                self._watched.discard(pid)
        self._due.set()

    async def _reap_unmapped(self) -> set[int]:
        """Let orphans of the region file go that nobody maps; returns the pids that keep the others."""
        waiting = self._waiting()
        if not waiting:
            return set()
        view = mappings.viewpoint((), self._region)
        mapped = await trio.to_thread.run_sync(mappings.mapped_by, view, waiting)
        await trio.lowlevel.checkpoint_if_cancelled()
        for inode in waiting:
            # Meanwhile it may have gone, but not come into use: who maps it has a descriptor of it.
            if inode.ino in self._ledger.state.orphans and inode.ino not in mapped:
                self._try_let_go(inode.ino, is_unmapped=True)
        return {user.pid for users in mapped.values() for user in users}

    def _waiting(self) -> list[Inode]:
        """Orphans that only mappings of the region file can still keep."""
        state = self._ledger.state
        if self._region.region_file is None or state.frozen:
            return []
        inodes = [state.inodes[ino] for ino in self._born()]
        return [inode for inode in inodes if inode.extents and not self._kernel.knows(inode.ino)]

    def _try_let_go(self, ino: Ino, *, is_unmapped: bool = False) -> None:
        """One that cannot go must not keep the others, nor fail the status or statfs that asks for it."""
        try:
            self._let_go(ino, is_unmapped)
        except (FsError, OSError) as error:
            log.warning("inode %d stays for now: %s", ino, error)

    def _let_go(self, ino: Ino, is_unmapped: bool) -> None:
        state = self._ledger.state
        inode = state.inodes[ino]
        self._backings.release(ino)
        if ino not in state.orphans or state.frozen:
            return
        if self._region.region_file is not None and inode.extents and not is_unmapped:
            self._due.set()  # to find out who maps it takes longer than may be spent here
        else:
            # The memory first: nobody can reach it any more, and a crash in between leaves an orphan that the
            # next daemon reaps. The other way round it would leave memory that belongs to nobody.
            if inode.is_file:
                self._poison.look_at(inode)
                self._region.discard(inode)
            self._ledger.commit(cmd.Reap(ino))
            self.reaped += 1
