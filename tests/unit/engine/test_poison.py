"""Memory errors: looked for only when the kernel's count moved, attributed, quarantined, logged once."""

from __future__ import annotations

import logging
import stat

import pytest
import trio

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.records import Quarantined
from guestmemfs_fuse.core.state import Inode, new_state
from guestmemfs_fuse.core.types import ROOT_INO, BlockNumber, Extent, Ino
from guestmemfs_fuse.engine import mappings
from guestmemfs_fuse.engine.engine import Engine
from guestmemfs_fuse.engine.poison import blocks_of_ranges
from guestmemfs_fuse.linux import hwpoison
from guestmemfs_fuse.region.base import RegionFile
from tests.unit.engine.fakes import BLOCK, FakeKernel, MemoryJournal, MemoryRegion

BLOCKS = 8


class BadRegion(MemoryRegion):
    """Its files are extents of one file; `bad` are ranges of files with errors."""

    region_file = RegionFile((0, 1), 1)  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__(BLOCKS * BLOCK)
        self.bad: dict[Ino, list[tuple[int, int]]] = {}
        self.looks: list[Ino] = []

    def poisoned(self, inode: Inode) -> list[tuple[int, int]]:
        self.looks.append(inode.ino)
        return self.bad.get(inode.ino, [])


class World:
    """An engine, and a kernel that has lost `lost_bytes`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lost_bytes = 0
        monkeypatch.setattr(hwpoison, "corrupted_bytes", lambda: self.lost_bytes)
        monkeypatch.setattr(mappings, "mapped_beyond", lambda *_: [])
        monkeypatch.setattr(mappings, "mapped_by", lambda *_: {})
        state = new_state(region_bytes=BLOCKS * BLOCK, block_bytes=BLOCK, now_ns=1, extents=True)
        self.region = BadRegion()
        self.journal = MemoryJournal()
        self.engine = Engine(state, self.journal, self.region, FakeKernel())
        self.engine.poison._corrupted_bytes = lambda: self.lost_bytes

    def file(self, name: bytes, blocks: int) -> Ino:
        ino = self.engine.make(cmd.Make(ROOT_INO, name, stat.S_IFREG | 0o600, 0, 0))
        trio.run(self.engine.memory.resize, ino, blocks * BLOCK)
        return ino

    def look(self) -> dict[Ino, list[tuple[int, int]]]:
        return trio.run(self.engine.poison.look)

    def quarantined(self) -> list[Extent]:
        records = [record for each in self.journal.transactions for record in each.records]
        return [extent for each in records if isinstance(each, Quarantined) for extent in each.extents]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


def test_nothing_is_looked_at_while_the_kernel_has_lost_nothing(world: World) -> None:
    world.file(b"a", 2)
    assert world.look() == {}
    assert world.region.looks == []


def test_an_error_is_found_attributed_logged_once_and_its_block_quarantined(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.file(b"a", 2)
    ino = world.file(b"b", 3)
    world.lost_bytes, world.region.bad = 4096, {ino: [(BLOCK + 512, BLOCK + 1024)]}
    with caplog.at_level(logging.ERROR):
        assert world.look() == {ino: [(BLOCK + 512, BLOCK + 1024)]}
        assert world.look() == {ino: [(BLOCK + 512, BLOCK + 1024)]}
        world.lost_bytes *= 2
        world.look()
    assert len(caplog.records) == 1
    assert world.quarantined() == [Extent(BlockNumber(3), 1)]


def test_a_block_with_an_error_never_comes_back(world: World) -> None:
    ino = world.file(b"a", 3)
    world.lost_bytes, world.region.bad = 4096, {ino: [(0, 100)]}
    trio.run(world.engine.memory.resize, ino, 0)  # nobody has asked for a status before
    assert world.quarantined() == [Extent(BlockNumber(0), 1)]
    assert world.engine.state.free is not None
    assert world.engine.state.free.free_blocks == BLOCKS - 1
    again = world.file(b"b", BLOCKS - 1)
    assert world.engine.state.inodes[again].extents == (Extent(BlockNumber(1), BLOCKS - 1),)


def test_the_blocks_of_an_orphan_are_looked_at_before_they_are_given_up(world: World) -> None:
    ino = world.file(b"a", 3)
    world.engine.change(cmd.Unlink(ROOT_INO, b"a"))
    world.lost_bytes, world.region.bad = 4096, {ino: [(2 * BLOCK, 2 * BLOCK + 1)]}
    trio.run(world.engine.orphans.reap)
    assert ino not in world.engine.state.inodes
    assert world.quarantined() == [Extent(BlockNumber(2), 1)]
    assert world.engine.poison.found == {}


def test_an_error_is_quarantined_while_the_instance_is_frozen(world: World) -> None:
    ino = world.file(b"a", 3)
    trio.run(world.engine.freeze)
    world.lost_bytes, world.region.bad = 4096, {ino: [(0, 1)]}
    world.look()
    assert world.quarantined() == [Extent(BlockNumber(0), 1)]


def test_a_journal_that_is_full_does_not_hide_the_error(world: World) -> None:
    ino = world.file(b"a", 3)
    world.lost_bytes, world.region.bad = 4096, {ino: [(0, 1)]}
    world.journal.failing = True
    assert world.look() == {ino: [(0, 1)]}


@pytest.mark.parametrize(
    ("ranges", "blocks"),
    [
        ([(0, 1)], [5]),
        ([(9, 11)], [5, 6]),
        ([(10, 20), (29, 30)], [6, 1]),
        ([(39, 50)], [2]),
        ([(40, 50)], []),
    ],
)
def test_ranges_of_a_file_are_blocks_of_the_region(ranges: list[tuple[int, int]], blocks: list[int]) -> None:
    inode = Inode(Ino(2), 0o100600, 0, 0, 1, 0, 0, 0)
    inode.extents = (Extent(BlockNumber(5), 2), Extent(BlockNumber(1), 2))
    assert [each.start for each in blocks_of_ranges(inode, ranges, 10)] == blocks
