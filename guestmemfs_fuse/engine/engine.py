"""One instance at work: the parts of the engine, put together.

The daemon builds one Engine per session; fuse/operations, the relay's hooks and the control handlers call
it. Nothing in here knows FUSE messages or sockets.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from typing import Final

import trio

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.errors import InvalidCallError, RegionFullError, UserLimitError
from guestmemfs_fuse.core.state import State
from guestmemfs_fuse.core.types import Ino
from guestmemfs_fuse.engine import recovery
from guestmemfs_fuse.engine.backings import Backings
from guestmemfs_fuse.engine.gate import Gate
from guestmemfs_fuse.engine.kernel import Kernel
from guestmemfs_fuse.engine.ledger import Journal, Ledger, Origin
from guestmemfs_fuse.engine.memory import Memory
from guestmemfs_fuse.engine.orphans import Orphans
from guestmemfs_fuse.engine.poison import Poison
from guestmemfs_fuse.engine.punches import Punches
from guestmemfs_fuse.region.base import Region

log = logging.getLogger(__name__)

_LIMITS: Final = (RegionFullError, UserLimitError)
"""What a file counts against that was removed a moment ago (Orphans.catch_up)."""


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """Counters since this daemon started."""

    committed: int
    reaped: int
    orphans: int
    inodes: int
    changes_under_way: int


class Engine:
    """State, journal, region and kernel of one instance."""

    def __init__(self, state: State, journal: Journal, region: Region, kernel: Kernel) -> None:
        self.region = region
        self.kernel = kernel
        self.ledger = Ledger(state, journal)
        self.punches = Punches(state, region, kernel)
        self.backings = Backings(self.ledger, region, kernel, self.punches)
        self.poison = Poison(self.ledger, region)
        self.orphans = Orphans(self.ledger, region, kernel, self.backings, self.poison)
        self.gate = Gate()
        self.memory = Memory(self.ledger, region, self.gate, self.orphans, self.poison)
        self.swept = trio.Event()
        self._openable: set[Ino] = set()

    @property
    def state(self) -> State:
        """For reading; only the ledger changes it."""
        return self.ledger.state

    def make(self, command: cmd.Make, origin: Origin | None = None, *, opened: bool = False) -> Ino:
        """Make an inode; a regular file gets its (empty) backing first. opened: the caller opens it, too.

        A crash in between leaves an empty backing of a number not given out yet, which the next create
        of that number takes over. An O_TMPFILE file that was made before a crash may have been reaped since,
        for nobody had it: then the caller who asks again gets another one.
        """
        try:
            return self._make(command, origin, opened=opened)
        except _LIMITS:
            if not self.orphans.catch_up():
                raise
        return self._make(command, origin, opened=opened)

    def _make(self, command: cmd.Make, origin: Origin | None, *, opened: bool) -> Ino:
        done = self.ledger.already_done(origin)
        if done is not None and done in self.state.inodes:
            if opened:
                self.backings.ensure(done)
            return done
        is_file = command.mode & 0o170000 == 0o100000
        if is_file:
            self.ledger.check(command)
            self.region.create(self.state.next_ino)
        return self.backings.make(command, origin) if opened else self.ledger.commit(command, origin)

    def change(self, command: cmd.Command, origin: Origin | None = None) -> Ino:
        """Any change that is one commit. Raises FsError."""
        done = self.ledger.already_done(origin)
        if done is not None:
            return done
        try:
            return self.ledger.commit(command, origin)
        except _LIMITS:
            if not self.orphans.catch_up():
                raise
        return self.ledger.commit(command, origin)

    def may_open_saved(self, ino: Ino) -> bool:
        """Whether a file that holds a saved guest may be opened: only while it is being restored."""
        return ino in self._openable

    def check_opening(self, flags: int) -> None:
        """Refuse, before anything is made, an open(2) the kernel would not complete.

        It opens the backing with the caller's flags; what stands in for one where nothing can be mapped
        through the mount knows no O_DIRECT, and the caller would get EIO. Raises InvalidCallError, as
        filesystems without direct I/O do.
        """
        if flags & os.O_DIRECT and not self.region.passthrough:
            raise InvalidCallError("there is no direct I/O here")

    def allow_restore(self, ino: Ino, allowed: bool) -> None:
        """Open or close the door for `vm restore`; a new daemon starts with it closed."""
        (self._openable.add if allowed else self._openable.discard)(ino)

    async def freeze(self) -> None:
        """Enter the serialised state: drains what is under way, then nothing changes any more."""
        await self.orphans.caught_up()
        try:
            await self.gate.close()
            self.orphans.catch_up()
            self.ledger.commit(cmd.Freeze(True))
        finally:
            self.gate.open()

    async def come_to_rest(self, *, interrupt: bool) -> None:
        """Let nothing begin, and wait until nothing of ours works on the region: another daemon will.

        interrupt: stop allocations, for good, which takes back what they allocated: only when we leave for
        certain. Also covers what no caller on the mount waits for: the sweep, fsck, a forced resize. Without
        `interrupt`, `gate.open` undoes it.
        """
        if interrupt:
            self.memory.interrupt_all()
        await self.gate.close()
        self.orphans.catch_up()

    def thaw(self) -> None:
        """Leave the serialised state; orphans whose FORGET came meanwhile go now."""
        self.ledger.commit(cmd.Freeze(False))
        self.orphans.sweep()

    def recover(self) -> None:
        """Before the first request: settle what the last daemon may have left half done."""
        settled = recovery.settle_tail(self.state, self.region)
        if settled:
            log.info("settled %d files the last daemon was working on", settled)

    async def sweep(self) -> None:
        """After start-up, beside live traffic: reap orphans, give back what no file reaches.

        Sets `swept`: what a daemon before us left half done is put right.
        """
        await self.backings.close_unknown()
        if not self.state.frozen:
            self.orphans.sweep()
            await self._settle_all()
        self.swept.set()

    async def _settle_all(self) -> None:
        files = [inode for inode in self.state.inodes.values() if inode.is_file]
        differing, strays = await trio.to_thread.run_sync(recovery.scan, files, self.region)
        for ino in differing:
            async with self.gate.settling(ino):
                if recovery.settle(self.state, self.region, ino):
                    log.info("inode %d brought back to what the journal says", ino)
        for ino in strays:
            if recovery.discard_stray(self.state, self.region, ino):
                log.info("removed the empty backing file of inode %d, which nobody was told about", ino)

    def statistics(self) -> EngineStatistics:
        """See EngineStatistics."""
        return EngineStatistics(
            self.ledger.committed,
            self.orphans.reaped,
            len(self.state.orphans),
            len(self.state.inodes),
            self.gate.under_way,
        )
