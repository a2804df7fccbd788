"""Growing, shrinking and punching files: changes in several steps around one commit.

Grow: memory first (in a thread, in pieces, interruptible), then the commit, then the backing's size.
A commit that is refused takes the memory back. Shrink: nobody may map what is cut, then the commit, then
the cut. A crash in between leaves what engine/recovery puts right from the journal.

Called by fuse/operations (setattr), the relay's hooks (fallocate) and control (forced resize).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import Final, TypeVar

import trio

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.errors import BusyFsError, RegionFullError, UnsupportedModeError
from guestmemfs_fuse.core.evolve import split
from guestmemfs_fuse.core.lookup import inode_of
from guestmemfs_fuse.core.state import Inode
from guestmemfs_fuse.core.types import Ino
from guestmemfs_fuse.engine import mappings, report
from guestmemfs_fuse.engine.gate import Gate
from guestmemfs_fuse.engine.ledger import Ledger, Origin
from guestmemfs_fuse.engine.orphans import Orphans
from guestmemfs_fuse.engine.poison import Poison
from guestmemfs_fuse.linux import process
from guestmemfs_fuse.region.base import Filled, Region, Stop

T = TypeVar("T")

KEEP_SIZE: Final = 1
PUNCH_HOLE: Final = 2
_INLINE_BYTES: Final = 16 << 20
"""Work on less than this takes well under a millisecond and is not worth a thread."""

_EARLY_INTERRUPTS: Final = 256
"""How many interrupts of requests that have not begun (or never will: most calls do not wait) are kept."""


class Memory:
    """The calls that move memory between a file and the region."""

    def __init__(self, ledger: Ledger, region: Region, gate: Gate, orphans: Orphans, poison: Poison) -> None:
        self._ledger = ledger
        self._region = region
        self._gate = gate
        self._orphans = orphans
        self._poison = poison
        self._one_at_a_time = trio.Lock()
        self._running: dict[int, bool] = {}
        self._leaving = False
        self._early: OrderedDict[int, None] = OrderedDict()
        self._own_numbers = count(-1, -1)

    def interrupt(self, unique: int) -> None:
        """The caller of request `unique` gave up: an allocation stops at its next piece."""
        if unique in self._running:
            self._running[unique] = True
            return
        # Both may lie in the channel at the same time: then this comes before its request has begun.
        self._early[unique] = None
        if len(self._early) > _EARLY_INTERRUPTS:
            self._early.popitem(last=False)

    def interrupt_all(self) -> None:
        """Stop every allocation at its next piece, whoever wants it; for good, because we are leaving."""
        self._leaving = True

    async def resize(
        self, ino: Ino, size_bytes: int, origin: Origin | None = None, *, force: bool = False
    ) -> None:
        """truncate(2). force: also when pinned or mapped beyond the new end.

        Raises BusyFsError (pinned, frozen, mapped), RegionFullError, FileTooBigError, InterruptedFsError.
        """
        command = cmd.Resize(ino, size_bytes, force)
        async with self._gate.exclusive(ino):
            if self._ledger.already_done(origin) is not None:
                return
            await self._check(command)
            inode = inode_of(self._ledger.state, ino)
            if size_bytes > inode.size_bytes:
                await self._grow(inode, inode.size_bytes, size_bytes, command, origin)
            else:
                # Blocks of one region file become another file's: nobody may go on seeing them.
                if size_bytes < inode.size_bytes and (not force or self._region.region_file is not None):
                    await self._require_unmapped(inode, size_bytes)
                await self._cut(inode, command, origin)

    @asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        """No allocation and no cut is under way inside the block, in any file."""
        async with self._one_at_a_time:
            yield

    async def _cut(self, inode: Inode, command: cmd.Resize, origin: Origin | None) -> None:
        """Commit, then give memory back; blocks that were cut are handed out again only afterwards."""
        cut_bytes, held = inode.size_bytes - command.size_bytes, inode.extents
        async with self._one_at_a_time:
            self._poison.look_at(inode)
            self._ledger.commit(command, origin)
            cut = split(held, inode.block_count)[1]
            await _work(cut_bytes, self._region.settle, inode)
            await _work(cut_bytes, self._region.release, cut)

    async def fallocate(
        self, ino: Ino, mode: int, offset_bytes: int, length_bytes: int, origin: Origin | None = None
    ) -> None:
        """fallocate(2): mode 0, KEEP_SIZE, or PUNCH_HOLE | KEEP_SIZE.

        Raises UnsupportedModeError for other modes, else as `resize`.
        """
        if mode == PUNCH_HOLE | KEEP_SIZE:
            await self._punch(cmd.Punch(ino, offset_bytes, length_bytes), origin)
            return
        if mode not in (0, KEEP_SIZE):
            raise UnsupportedModeError()
        command = cmd.Allocate(ino, offset_bytes, length_bytes, keep_size=bool(mode))
        async with self._gate.exclusive(ino):
            if self._ledger.already_done(origin) is not None:
                return
            await self._check(command)
            inode = inode_of(self._ledger.state, ino)
            await self._grow(inode, offset_bytes, offset_bytes + length_bytes, command, origin)

    async def _punch(self, command: cmd.Punch, origin: Origin | None) -> None:
        async with self._gate.exclusive(command.ino):
            if self._ledger.already_done(origin) is not None:
                return
            self._ledger.check(command)
            inode = inode_of(self._ledger.state, command.ino)
            self._ledger.commit(command, origin)
            await _work(
                command.length_bytes, self._region.punch, inode, command.offset_bytes, command.length_bytes
            )

    async def _grow(
        self, inode: Inode, start_bytes: int, end_bytes: int, command: cmd.Command, origin: Origin | None
    ) -> None:
        unique = origin.unique if origin is not None else next(self._own_numbers)
        # No program expects EINTR of ftruncate (no other filesystem gives it): only a caller that is being
        # killed is let go. fallocate is known to be interruptible.
        caller = origin.pid if origin is not None and isinstance(command, cmd.Resize) else 0

        def stop() -> bool:
            return self._leaving or (self._running[unique] and (not caller or process.is_dying(caller)))

        self._running[unique] = unique in self._early
        self._early.pop(unique, None)
        try:
            # One at a time: two allocations must not each see the room the other one takes.
            async with self._one_at_a_time:
                filled = await self._fill(inode, start_bytes, end_bytes, stop)
        finally:
            del self._running[unique]
        try:
            self._ledger.commit(command, origin)
        except BaseException:
            self._region.take_back(inode.ino, filled)
            raise
        self._region.settle(inode)

    async def _check(self, command: cmd.Command) -> None:
        """Raise what the commit would raise now; where blocks lack, those of removed files may be due."""
        try:
            self._ledger.check(command)
        except RegionFullError:
            if not await self._orphans.reap():
                raise
            self._ledger.check(command)

    async def _fill(self, inode: Inode, start_bytes: int, end_bytes: int, stop: Stop) -> Filled:
        reaped = self._orphans.reaped
        try:
            return await self._fill_once(inode, start_bytes, end_bytes, stop)
        except RegionFullError:
            # A file that was just removed may only wait for its FORGET; or was let go while we tried.
            await self._orphans.reap()
            if self._orphans.reaped == reaped:
                raise
        return await self._fill_once(inode, start_bytes, end_bytes, stop)

    async def _fill_once(self, inode: Inode, start_bytes: int, end_bytes: int, stop: Stop) -> Filled:
        self._region.foresee(inode, end_bytes)
        length_bytes = end_bytes - start_bytes
        return await _work(length_bytes, self._region.fill, inode, start_bytes, end_bytes, stop)

    async def _require_unmapped(self, inode: Inode, size_bytes: int) -> None:
        """Cutting what a process maps would kill it by SIGBUS."""
        state = self._ledger.state
        if inode.backing_id is None and not state.past_devices and self._region.region_file is None:
            return  # never opened on this connection, and there was no other
        view = mappings.viewpoint(report.devices_of(state), self._region)
        mapped = await trio.to_thread.run_sync(mappings.mapped_beyond, view, inode, size_bytes)
        if mapped:
            names = ", ".join(f"{each.comm}[{each.pid}]" for each in mapped[:3])
            is_final = self._region.region_file is not None
            raise BusyFsError(
                f"{names} maps what would be cut",
                hint="end them: its blocks would be another file's"
                if is_final
                else "guestmemfs resize-file --force cuts it",
            )


async def _work(length_bytes: int, function: Callable[..., T], *args: object) -> T:
    """Run blocking work that grows with `length_bytes`: here when it is short, else in a thread."""
    if length_bytes <= _INLINE_BYTES:
        return function(*args)
    return await trio.to_thread.run_sync(function, *args)
