"""Files punched behind our back: the kernel is told to ask again, and only then."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from guestmemfs_fuse.core.state import Inode, State, new_state
from guestmemfs_fuse.core.types import BackingId, Ino
from guestmemfs_fuse.engine.punches import Punches
from guestmemfs_fuse.linux import memory
from guestmemfs_fuse.region.base import BackingStat
from tests.unit.engine.fakes import BLOCK, FakeKernel, MemoryRegion

RAM, OTHER = Ino(2), Ino(3)
SIZE = 4 * BLOCK
HOLE = memory.FALLOC_FL_PUNCH_HOLE | memory.FALLOC_FL_KEEP_SIZE


class FileRegion(MemoryRegion):
    """Two backing files that a kernel can watch; directory: where they have names."""

    def __init__(self, directory: Path | None = None) -> None:
        super().__init__()
        if directory is not None:
            self.backing_dir_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        self.fds = {ino: self._made(ino) for ino in (RAM, OTHER)}
        for fd in self.fds.values():
            os.posix_fallocate(fd, 0, SIZE)

    def _made(self, ino: Ino) -> int:
        if self.backing_dir_fd is not None:
            return os.open(f"{ino:x}", os.O_RDWR | os.O_CREAT, dir_fd=self.backing_dir_fd)
        # not memfds: the kernel tells of no memfd's holes (FMODE_NONOTIFY)
        return os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR, 0o600)

    def close(self) -> None:
        for fd in (*self.fds.values(), *([] if self.backing_dir_fd is None else [self.backing_dir_fd])):
            os.close(fd)

    def open_backing(self, ino: Ino) -> int:
        return os.dup(self.fds[ino])

    def stat(self, inode: Inode) -> BackingStat:
        at = os.fstat(self.fds[inode.ino])
        return BackingStat(at.st_size, at.st_blocks * 512)

    def punch_behind_our_back(self, ino: Ino) -> None:
        memory.fallocate(self.fds[ino], HOLE, 0, BLOCK)


class ToldKernel(FakeKernel):
    """Remembers whose attributes were dropped, and lets a test wait for the next."""

    def __init__(self) -> None:
        super().__init__()
        self.send, self.told = trio.open_memory_channel[Ino](100)

    def invalidate_inode(self, ino: Ino) -> None:
        self.send.send_nowait(ino)

    def assert_nobody_was_told(self) -> None:
        with pytest.raises(trio.WouldBlock):
            self.told.receive_nowait()


class Bench:
    def __init__(self, known: tuple[Ino, ...], directory: Path | None) -> None:
        self.region, self.kernel = FileRegion(directory), ToldKernel()
        self.state: State = new_state(region_bytes=1 << 30, block_bytes=BLOCK, now_ns=1)
        for ino in (RAM, OTHER):
            inode = Inode(ino, 0o100600, 0, 0, 1, 1, 1, 1, size_bytes=SIZE)
            inode.backing_id = BackingId(ino) if ino in known else None
            self.state.inodes[ino] = inode
        self.punches = Punches(self.state, self.region, self.kernel)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.punches.run)
            await trio.testing.wait_all_tasks_blocked()
            with trio.fail_after(5):
                yield
            nursery.cancel_scope.cancel()


@pytest.fixture(params=[False, True], ids=["nameless", "named"])
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    # a directory of a tmpfs, as a region's: not every filesystem counts its holes at once
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        made = Bench(known=(RAM,), directory=Path(directory) if request.param else None)
        yield made
        made.region.close()


def test_a_punched_file_is_told_to_the_kernel(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.running():
            bench.region.punch_behind_our_back(RAM)
            assert await bench.kernel.told.receive() == RAM

    trio.run(scenario)


def test_a_file_the_kernel_does_not_know_is_not_watched(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.running():
            bench.region.punch_behind_our_back(OTHER)
            bench.region.punch_behind_our_back(RAM)
            assert await bench.kernel.told.receive() == RAM

    trio.run(scenario)


def test_a_file_that_is_opened_later_is_watched_and_then_no_longer(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.running():
            bench.state.inodes[OTHER].backing_id = BackingId(OTHER)
            bench.punches.watch(OTHER, bench.region.fds[OTHER])
            bench.region.punch_behind_our_back(OTHER)
            assert await bench.kernel.told.receive() == OTHER
            bench.punches.unwatch(OTHER)
            bench.state.inodes[OTHER].backing_id = None
            bench.region.punch_behind_our_back(OTHER)
            bench.region.punch_behind_our_back(RAM)
            assert await bench.kernel.told.receive() == RAM

    trio.run(scenario)


def test_a_change_that_leaves_all_memory_in_place_is_not_told(bench: Bench) -> None:
    async def scenario() -> None:
        async with bench.running():
            memory.fallocate(bench.region.fds[RAM], memory.FALLOC_FL_KEEP_SIZE, 0, SIZE)
            await trio.testing.wait_all_tasks_blocked(0.01)
            bench.kernel.assert_nobody_was_told()
            bench.region.punch_behind_our_back(RAM)
            assert await bench.kernel.told.receive() == RAM

    trio.run(scenario)


def test_before_it_runs_nothing_is_watched_and_nothing_breaks(bench: Bench) -> None:
    bench.punches.watch(RAM, bench.region.fds[RAM])
    bench.punches.unwatch(RAM)
    bench.region.punch_behind_our_back(RAM)
    bench.kernel.assert_nobody_was_told()


def test_what_stands_in_the_directory_and_is_no_file_of_ours_is_passed_over() -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        bench = Bench(known=(RAM,), directory=Path(directory))

        async def scenario() -> None:
            async with bench.running():
                for name in ("stranger", "ffff"):
                    Path(directory, name).write_bytes(b"x")
                bench.region.punch_behind_our_back(RAM)
                assert await bench.kernel.told.receive() == RAM

        trio.run(scenario)
        bench.region.close()


def test_much_news_is_looked_at_together(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that truncates file after file must not wake us for each."""
    looks: list[Ino] = []
    stat = bench.region.stat

    def counted(inode: Inode) -> BackingStat:
        looks.append(inode.ino)
        return stat(inode)

    monkeypatch.setattr(bench.region, "stat", counted)
    clock = trio.testing.MockClock()

    async def scenario() -> None:
        async with bench.running():
            for _ in range(10):
                memory.fallocate(bench.region.fds[RAM], memory.FALLOC_FL_KEEP_SIZE, 0, SIZE)
                await trio.testing.wait_all_tasks_blocked()
            assert len(looks) == 1
            clock.jump(1)
            await trio.testing.wait_all_tasks_blocked()
            assert len(looks) == 2

    trio.run(scenario, clock=clock)
