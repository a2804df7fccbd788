"""Orphans of a region file: kept while a process maps their blocks, reaped when it ends, without polling."""

from __future__ import annotations

import stat
import subprocess
from collections.abc import Iterator

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.errors import RegionFullError
from guestmemfs_fuse.core.state import new_state
from guestmemfs_fuse.core.types import ROOT_INO, Ino
from guestmemfs_fuse.engine import mappings
from guestmemfs_fuse.engine.engine import Engine
from guestmemfs_fuse.linux.users import MappedBy
from guestmemfs_fuse.region.base import RegionFile
from tests.unit.engine.fakes import BLOCK, FakeKernel, MemoryJournal, MemoryRegion, forget

BLOCKS = 8


class SharedRegion(MemoryRegion):
    """Its files are extents of one file."""

    passthrough = False
    region_file = RegionFile((0, 1), 1)  # type: ignore[assignment]


class Proc:
    """Who maps what, in place of /proc; counts the looks."""

    def __init__(self) -> None:
        self.mapped: mappings.Mapped = {}
        self.looks = 0

    def look(self, view: object, inodes: object) -> mappings.Mapped:
        self.looks += 1
        return dict(self.mapped)


@pytest.fixture
def proc(monkeypatch: pytest.MonkeyPatch) -> Proc:
    fake = Proc()
    monkeypatch.setattr(mappings, "mapped_by", fake.look)
    return fake


@pytest.fixture
def engine(proc: Proc) -> Engine:
    state = new_state(region_bytes=BLOCKS * BLOCK, block_bytes=BLOCK, now_ns=1, extents=True)
    return Engine(state, MemoryJournal(), SharedRegion(BLOCKS * BLOCK), FakeKernel())


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "1000"])
    yield process
    process.kill()
    process.wait()


def orphan(engine: Engine, name: bytes = b"ram", blocks: int = BLOCKS) -> Ino:
    """A file with memory and without a name, which the kernel has forgotten."""
    ino = engine.make(cmd.Make(ROOT_INO, name, stat.S_IFREG | 0o600, 0, 0))
    trio.run(engine.memory.resize, ino, blocks * BLOCK)
    engine.change(cmd.Unlink(ROOT_INO, name))
    return ino


def test_a_forget_does_not_look_into_proc_on_the_event_loop(engine: Engine, proc: Proc) -> None:
    ino = orphan(engine)
    forget(engine, ino)
    assert ino in engine.state.inodes
    assert proc.looks == 0


def test_it_goes_once_run_has_seen_that_nobody_maps_it(engine: Engine, proc: Proc) -> None:
    ino = orphan(engine)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.orphans.run)
            engine.orphans.forgotten([ino])
            with trio.fail_after(10):
                while ino in engine.state.inodes:
                    await trio.sleep(0)
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert engine.state.free is not None and engine.state.free.used_blocks == 0


def test_it_goes_when_the_process_that_maps_it_ends(
    engine: Engine, proc: Proc, sleeper: subprocess.Popen[bytes]
) -> None:
    ino = orphan(engine)
    proc.mapped = {ino: [MappedBy(sleeper.pid, "sleep", BLOCK)]}

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.orphans.run)
            with trio.fail_after(10):
                while not proc.looks:
                    await trio.sleep(0)
            await trio.sleep(3600)  # of a mock clock: nothing is looked at again as time passes
            assert (proc.looks, ino in engine.state.inodes) == (1, True)
            proc.mapped = {}
            sleeper.kill()
            while ino in engine.state.inodes:
                await trio.sleep(0)
            nursery.cancel_scope.cancel()

    trio.run(main, clock=MockClock(autojump_threshold=0.05))
    assert proc.looks == 2


def test_an_allocation_that_lacks_blocks_looks_whether_somebody_unmapped_some(
    engine: Engine, proc: Proc
) -> None:
    orphan(engine, blocks=BLOCKS)
    ino = engine.make(cmd.Make(ROOT_INO, b"new", stat.S_IFREG | 0o600, 0, 0))
    trio.run(engine.memory.resize, ino, BLOCKS * BLOCK)
    assert engine.state.inodes[ino].block_count == BLOCKS


def test_it_fails_when_they_are_all_mapped(engine: Engine, proc: Proc) -> None:
    mapped = orphan(engine, blocks=BLOCKS)
    proc.mapped = {mapped: [MappedBy(1, "init", BLOCK)]}
    ino = engine.make(cmd.Make(ROOT_INO, b"new", stat.S_IFREG | 0o600, 0, 0))
    with pytest.raises(RegionFullError):
        trio.run(engine.memory.resize, ino, BLOCK)


def test_regression_files_with_one_backing_between_them_are_not_watched_for_holes(engine: Engine) -> None:
    """inotify(7) has one watch a file: the second inode forgotten found it gone, and FORGET failed."""
    first, second = orphan(engine, b"a", 1), orphan(engine, b"b", 1)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.punches.run)
            await trio.testing.wait_all_tasks_blocked()
            for ino in (first, second):
                engine.backings.ensure(ino)
            forget(engine, first, second)
            nursery.cancel_scope.cancel()

    trio.run(main)
    assert all(engine.state.inodes[ino].backing_id is None for ino in (first, second))
