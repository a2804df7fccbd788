"""Who may modify now: per-inode exclusion, and the drain that freeze waits for.

Most changes are one synchronous commit and need nothing from here. Changes in several steps (allocation,
shrinking) hold their inode, so that two of them never interleave on one file, and are counted, so that
freeze can wait until the last of them is through.

Invariant: while the gate is closed no new multi-step change starts. Called by engine/memory, the engine
(freeze, sweep, hand-over) and fsck.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from guestmemfs_fuse.core.errors import BusyFsError
from guestmemfs_fuse.core.types import Ino


class Gate:
    """Counts multi-step changes and keeps them apart per inode."""

    def __init__(self) -> None:
        self._locks: dict[Ino, trio.Lock] = {}
        self._closed = 0
        self._under_way = 0
        self._changed = trio.Event()

    @property
    def under_way(self) -> int:
        """How many multi-step changes run or wait for their inode."""
        return self._under_way

    @asynccontextmanager
    async def exclusive(self, ino: Ino) -> AsyncIterator[None]:
        """Hold one inode against other multi-step changes. Raises BusyFsError while the gate is closed."""
        if self._closed:
            raise BusyFsError("the instance is being frozen, or its daemon replaced", hint="try again")
        lock = self._locks.setdefault(ino, trio.Lock())
        self._under_way += 1
        try:
            async with lock:
                yield
        finally:
            if not lock.locked():
                self._locks.pop(ino, None)
            self._under_way -= 1
            if self._under_way == 0:
                self._stir()

    @asynccontextmanager
    async def settling(self, ino: Ino) -> AsyncIterator[None]:
        """As `exclusive`, for work of our own that can wait until a freeze is through (sweep, fsck)."""
        while self._closed:
            await self._changed.wait()
        async with self.exclusive(ino):
            yield

    async def close(self) -> None:
        """Let no multi-step change begin any more, and wait until those under way are through."""
        self._closed += 1
        while self._under_way:
            await self._changed.wait()

    def open(self) -> None:
        """Let changes begin again, unless somebody else still has it closed."""
        self._closed -= 1
        self._stir()

    def _stir(self) -> None:
        """Make everybody who waits look again."""
        self._changed.set()
        self._changed = trio.Event()
