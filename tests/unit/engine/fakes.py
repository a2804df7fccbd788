"""A region, a journal and a kernel in memory, for tests of the engine without a mount."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import count

from guestmemfs_fuse.core.errors import (
    InterruptedFsError,
    MetadataWriteError,
    RegionFullError,
    StaleInodeError,
)
from guestmemfs_fuse.core.records import Transaction
from guestmemfs_fuse.core.state import Inode, new_state
from guestmemfs_fuse.core.types import BackingId, Extent, Ino, round_up
from guestmemfs_fuse.engine.engine import Engine
from guestmemfs_fuse.region.base import BackingStat, Filled, RegionExtent, RegionFile, RegionUse, Stop
from guestmemfs_fuse.region.freeing import Freeing

BLOCK = 4096


class MemoryRegion:
    """Keeps sizes and the number of allocated bytes; no bytes."""

    kind = "fake"
    block_bytes = BLOCK
    passthrough = True
    region_file: RegionFile | None = None
    backing_dir_fd: int | None = None

    def __init__(self, size_bytes: int = 16 * BLOCK) -> None:
        self.size_bytes = size_bytes
        self.sizes: dict[Ino, int] = {}
        self.memory: dict[Ino, int] = {}
        self.on_fill = lambda: None
        self.freeing = Freeing()

    def create(self, ino: Ino) -> None:
        self.sizes[ino] = self.memory[ino] = 0

    def open_backing(self, ino: Ino) -> int:
        assert ino in self.sizes
        return os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)

    def foresee(self, inode: Inode, end_bytes: int) -> None:
        pass

    def fill(self, inode: Inode, offset_bytes: int, end_bytes: int, stop: Stop) -> Filled:
        self.on_fill()
        if stop():
            raise InterruptedFsError()
        end = round_up(end_bytes, BLOCK)
        needed = max(0, end - self.memory[inode.ino])
        if needed > self.use().free_bytes:
            raise RegionFullError()
        before = self.memory[inode.ino]
        self.memory[inode.ino] = before + needed
        return Filled(((before, before + needed),) if needed else ())

    def take_back(self, ino: Ino, filled: Filled) -> None:
        self.memory[ino] -= sum(end - start for start, end in filled.ranges)

    def settle(self, inode: Inode) -> None:
        self.sizes[inode.ino] = inode.size_bytes
        reach = round_up(max(inode.size_bytes, inode.prealloc_bytes), BLOCK)
        self.memory[inode.ino] = min(self.memory[inode.ino], reach)

    def punch(self, inode: Inode, offset_bytes: int, length_bytes: int) -> None:
        self.memory[inode.ino] -= length_bytes

    def discard(self, inode: Inode) -> None:
        self.sizes.pop(inode.ino, None)
        self.memory.pop(inode.ino, None)

    def stat(self, inode: Inode) -> BackingStat:
        if inode.ino not in self.sizes:
            raise StaleInodeError(f"inode {inode.ino} has no backing file")
        return BackingStat(self.sizes[inode.ino], self.memory[inode.ino])

    def extents(self, inode: Inode) -> list[RegionExtent]:
        return [RegionExtent(0, self.memory[inode.ino])]

    def release(self, extents: tuple[Extent, ...]) -> None:
        pass

    def seek(self, inode: Inode, offset_bytes: int, whence: int) -> int:
        return offset_bytes

    def use(self) -> RegionUse:
        return RegionUse(self.size_bytes, sum(self.memory.values()))

    def huge_bytes(self, inode: Inode) -> int:
        return self.memory[inode.ino]

    def poisoned(self, inode: Inode) -> list[tuple[int, int]]:
        return []

    def inventory(self) -> Iterator[Ino]:
        return iter(list(self.sizes))

    def resize(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes

    def layout(self, inode: Inode) -> dict[str, object]:
        return {}


class MemoryJournal:
    """Remembers transactions; `failing` makes every append fail."""

    def __init__(self) -> None:
        self.transactions: list[Transaction] = []
        self.failing = False

    def append(self, transaction: Transaction) -> int:
        if self.failing:
            raise MetadataWriteError()
        self.transactions.append(transaction)
        return len(self.transactions)


class FakeKernel:
    """`held` are the inodes the kernel knows; `open_ids` the backing ids it has."""

    has_passthrough = True

    def __init__(self) -> None:
        self.held: set[Ino] = set()
        self.open_ids: set[BackingId] = set()
        self._numbers = count(1)

    def backing_open(self, backing_fd: int) -> BackingId:
        backing_id = BackingId(next(self._numbers))
        self.open_ids.add(backing_id)
        return backing_id

    def backing_close(self, backing_id: BackingId) -> None:
        self.open_ids.discard(backing_id)  # unknown ids are ignored

    def knows(self, ino: Ino) -> bool:
        return ino in self.held

    def invalidate_inode(self, ino: Ino) -> None:
        pass

    def invalidate_entry(self, parent: Ino, name: bytes) -> None:
        pass


def forget(engine: Engine, *inos: Ino) -> None:
    """FORGET arrives, and what is gathered is let go, as Orphans.run does it a few milliseconds later."""
    engine.orphans.forgotten(inos)
    while engine.orphans.catch_up():
        pass


class Bench:
    """An engine on fakes, and the fakes."""

    def __init__(self, region_blocks: int = 16) -> None:
        self.region = MemoryRegion(region_blocks * BLOCK)
        self.journal = MemoryJournal()
        self.kernel = FakeKernel()
        state = new_state(region_bytes=self.region.size_bytes, block_bytes=BLOCK, now_ns=1)
        self.engine = Engine(state, self.journal, self.region, self.kernel)
