"""Inodes without names: kept until their last user is gone, then reaped with their memory.

The kernel says FORGET when it drops an inode, but a FORGET that a dying daemon had read is lost, and a
new daemon does not know the lookup counts. So nothing is counted: whether an orphan may go is asked of
the kernel itself (Kernel.knows), after a FORGET, at start-up, and when memory runs short. One kind of orphan
the kernel may know only later: an O_TMPFILE file whose caller has not picked the answer up (`expected`).

Nobody waits for a FORGET, and whoever removes one file is likely to remove another: so what is forgotten is
gathered for a few milliseconds and let go together (run, Reaping). Whoever needs it earlier says so: `sweep`
and `reap` look at every orphan, `catch_up` at what was gathered.

Where files are extents of one region file (hugetlb), that is not all: `guestmemfs run` maps the region file,
so the kernel drops the inode while a guest still uses its blocks. Who does is found in /proc (in a thread),
and their end is waited for (pidfd_open(2)): no memory stays behind, and nothing ever looks at intervals. Who
only unmaps, and lives on, is noticed at the next FORGET, status, statfs or lack of room.

Called by the relay (forget), the engine (room, limits, freeze), control (status) and at start-up; run() is a
task of the daemon.
"""

from __future__ import annotations

import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

import trio

from guestmemfs_fuse.core.state import Inode
from guestmemfs_fuse.core.types import Ino
from guestmemfs_fuse.engine import mappings, recovery
from guestmemfs_fuse.engine.backings import Backings
from guestmemfs_fuse.engine.kernel import Kernel
from guestmemfs_fuse.engine.ledger import Ledger
from guestmemfs_fuse.engine.poison import Poison
from guestmemfs_fuse.engine.reaping import Reaping
from guestmemfs_fuse.region.base import Region

log = logging.getLogger(__name__)

_MOST_WATCHED: Final = 256
"""Processes whose end is waited for at the same time; there is a descriptor for each."""

_GATHER_S: Final = 0.004
"""How long what is forgotten may wait for more; statfs, status, freeze and lack of room do not wait."""

_AT_ONCE: Final = 32
"""Forgotten inodes that are dealt with in one go, a millisecond or two; callers wait meanwhile."""

_SLICE: Final = 250
"""Orphans of which the kernel is asked in one go, half a millisecond."""

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
        self._reaping = Reaping(ledger, region, backings, poison)
        self._unborn: set[int] = set()
        # The same of the daemon before us. A FORGET may have died with it, and a caller who was killed does
        # not ask again: so these are spared for a while only.
        self._perhaps_unborn: set[int] = set(recovery.nameless_last(ledger.state))
        self._clock = clock
        self._picked_up_at_s = clock() + _PICKED_UP_S
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
        """The kernel dropped references: backing ids are to be given back, and what has no name reaped.

        That is left to run(): soon, but not at once. When the kernel drops its whole cache it says so of
        65,000 inodes in one message.
        """
        listed = list(inos)
        self._unborn.difference_update(listed)
        self._forgotten.extend(listed)
        self._more_forgotten.set()

    @property
    def reaped(self) -> int:
        """How many orphans this daemon has reaped."""
        return self._reaping.reaped

    @property
    def behind(self) -> bool:
        """Whether forgotten inodes wait for run(): a successor must look at every orphan then."""
        return bool(self._forgotten)

    def catch_up(self) -> bool:
        """Deal with what was forgotten lately, as far as callers can wait for it; whether there was any."""
        count = min(_AT_ONCE, len(self._forgotten))
        self._reap_unused([self._forgotten.popleft() for _ in range(count)])
        return count > 0

    async def caught_up(self) -> None:
        """Return when all that was forgotten until now has been dealt with."""
        for _ in range(0, len(self._forgotten), _AT_ONCE):
            self.catch_up()
            await trio.lowlevel.checkpoint()

    def _reap_unused(self, inos: Iterable[int]) -> None:
        """Each once: who was forgotten, looked up, removed and forgotten again stands there twice."""
        inodes = self._ledger.state.inodes
        found = [inode for number in dict.fromkeys(inos) if (inode := inodes.get(Ino(number))) is not None]
        concerned = [inode for inode in found if inode.backing_id is not None or not inode.nlink]
        self._let_go([inode for inode in concerned if not self._kernel.knows(inode.ino)])

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
        """As sweep, and those of the region file whose blocks nobody maps; returns how many went.

        In slices: who keeps ten thousand removed files open must not stop everybody with each statfs.
        """
        before = self.reaped
        born = list(self._born())
        for start in range(0, len(born), _SLICE):
            self._reap_unused(born[start : start + _SLICE])
            await trio.lowlevel.checkpoint()
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
            await trio.sleep(_GATHER_S)
            self._more_forgotten = trio.Event()
            await self.caught_up()

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
        # Meanwhile some may have gone, but not come into use: who maps one has a descriptor of it.
        still = self._ledger.state.orphans.difference(mapped)
        self._let_go([inode for inode in waiting if inode.ino in still], unmapped=True)
        return {user.pid for users in mapped.values() for user in users}

    def _waiting(self) -> list[Inode]:
        """Orphans that only mappings of the region file can still keep."""
        state = self._ledger.state
        if self._region.region_file is None or state.frozen:
            return []
        inodes = [state.inodes[ino] for ino in self._born()]
        return [inode for inode in inodes if inode.extents and not self._kernel.knows(inode.ino)]

    def _let_go(self, inodes: list[Inode], *, unmapped: bool = False) -> None:
        """A number of them in one transaction, which is to stay small."""
        for start in range(0, len(inodes), _AT_ONCE):
            if self._reaping.let_go(inodes[start : start + _AT_ONCE], unmapped=unmapped):
                self._due.set()
