"""The memory of large removed files goes back beside everything else, and counts as free meanwhile."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

import pytest
import trio

from guestmemfs_fuse.core.errors import RegionFullError
from guestmemfs_fuse.core.state import Inode, new_state
from guestmemfs_fuse.core.types import Ino
from guestmemfs_fuse.engine.engine import Engine
from guestmemfs_fuse.engine.resizing import resize_region
from guestmemfs_fuse.linux import mount
from guestmemfs_fuse.region import backing_files, memfd, tmpfs
from guestmemfs_fuse.region.backing_files import BackingFiles
from guestmemfs_fuse.region.base import Region, RegionUse
from guestmemfs_fuse.region.freeing import Freeing, Release
from guestmemfs_fuse.region.memfd import MOUNT_NAME, MemfdRegion
from guestmemfs_fuse.region.named_files import NamedBackingFiles
from guestmemfs_fuse.region.tmpfs import TmpfsRegion
from tests.unit.engine.fakes import FakeKernel, MemoryJournal
from tests.unit.region.test_memfd_region import Store

BLOCK = 4096
WITHIN_S = 30.0


class Slow:
    """A release that waits until it may."""

    def __init__(self, then: Release = lambda: None) -> None:
        self.began, self.may = threading.Event(), threading.Event()
        self._then = then

    def __call__(self) -> None:
        self.began.set()
        assert self.may.wait(WITHIN_S)
        self._then()


def test_nobody_waits_who_does_not_ask_to() -> None:
    freeing, slow, seen = Freeing(), Slow(), []
    freeing.take(100, slow)
    freeing.take(20, lambda: seen.append("second"))
    assert not freeing._works
    freeing.begin()
    assert slow.began.wait(WITHIN_S)
    assert freeing.pending_bytes == 120
    assert not seen
    slow.may.set()
    freeing.wait()
    assert freeing.pending_bytes == 0
    assert seen == ["second"]


def test_a_thread_is_there_only_while_there_is_something_to_do() -> None:
    freeing = Freeing()
    before = set(threading.enumerate())  # idle ones of other tests may end at any time
    for _ in range(5):
        freeing.take(1, lambda: None)
        freeing.wait()
    deadline_s = time.monotonic() + WITHIN_S
    while set(threading.enumerate()) - before:
        assert time.monotonic() < deadline_s, threading.enumerate()
        time.sleep(0.001)


@pytest.mark.parametrize("error", [OSError("sealed"), RuntimeError("sealed")], ids=repr)
def test_regression_one_that_cannot_be_given_back_does_not_keep_the_others(
    caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    """After anything but an OSError nobody worked on, and whoever waited did so for ever."""

    def fail() -> None:
        raise error

    freeing, seen = Freeing(), []
    slow = Slow()
    freeing.take(1, slow)
    freeing.take(1, fail)
    freeing.take(1, lambda: seen.append("third"))
    with caplog.at_level(logging.WARNING):
        freeing.begin()
        slow.may.set()
        waits = threading.Thread(target=freeing.wait, daemon=True)
        waits.start()
        waits.join(WITHIN_S)
    assert not waits.is_alive()
    assert seen == ["third"]
    assert freeing.pending_bytes == 0
    assert "sealed" in caplog.text


def test_where_no_thread_can_be_had_everything_is_given_back_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    freeing, seen = Freeing(), []
    freeing.take(1, lambda: seen.append("first"))
    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        freeing.begin()
    assert seen == ["first"]
    assert freeing.pending_bytes == 0


@pytest.fixture(params=["tmpfs", "memfd"])
def region(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[BackingFiles]:
    """A region on the host's /dev/shm, where every file counts as large."""
    monkeypatch.setattr("resource.setrlimit", lambda which, limits: None)
    for module in (tmpfs, memfd):
        monkeypatch.setattr(module, "FREED_AT_ONCE_BYTES", 0)
    made = _tmpfs(request) if request.param == "tmpfs" else _memfd()
    yield made
    made.close()


def _tmpfs(request: pytest.FixtureRequest) -> TmpfsRegion:
    path: Path = request.getfixturevalue("tmp_path")
    return TmpfsRegion(str(path), 1 << 30, BLOCK)


def _memfd() -> MemfdRegion:
    mount_fd = os.open("/dev/shm", os.O_RDONLY | os.O_DIRECTORY)
    return MemfdRegion({MOUNT_NAME: [mount_fd]}, Store(), "/dev/shm", 1 << 30, BLOCK)


def a_file(region: BackingFiles, number: int) -> Inode:
    inode = Inode(Ino(number), 0o100600, 0, 0, 1, 0, 0, 0)
    region.create(inode.ino)
    with region._opened(inode.ino) as fd:
        os.posix_fallocate(fd, 0, 8 * BLOCK)
    return inode


@pytest.fixture
def held(region: BackingFiles, monkeypatch: pytest.MonkeyPatch) -> list[Slow]:
    """Everything that is given back from now on waits."""
    found: list[Slow] = []
    take: Callable[[int, Release], None] = region.freeing.take

    def hold(length_bytes: int, release: Release) -> None:
        found.append(Slow(release))
        take(length_bytes, found[-1])

    monkeypatch.setattr(region.freeing, "take", hold)
    return found


def test_a_removed_file_is_gone_while_its_memory_is_on_its_way(
    region: BackingFiles, held: list[Slow]
) -> None:
    inode = a_file(region, 7)
    region.discard(inode)
    region.discard(inode)
    assert list(region.inventory()) == []
    (slow,) = held
    assert not slow.began.is_set()  # what else refers to it comes first
    region.freeing.begin()
    assert slow.began.wait(WITHIN_S)
    assert region.freeing.pending_bytes >= 8 * BLOCK
    slow.may.set()
    region.freeing.wait()


def test_room_that_is_on_its_way_counts_as_free(
    region: BackingFiles, held: list[Slow], monkeypatch: pytest.MonkeyPatch
) -> None:
    used_bytes = 100 * BLOCK
    monkeypatch.setattr(NamedBackingFiles, "_metadata_bytes", lambda self: 0)
    monkeypatch.setattr(os, "fstatvfs", lambda fd: Whole(used_bytes))
    region.size_bytes = 120 * BLOCK  # type: ignore[attr-defined]
    inode = a_file(region, 7)
    assert region.use().free_bytes == 20 * BLOCK
    region.discard(inode)
    assert region.use().free_bytes == 28 * BLOCK
    assert region._lacking(28 * BLOCK) == "the region is full"
    used_bytes = 92 * BLOCK
    held[0].may.set()
    region.freeing.wait()
    assert region.use().free_bytes == 28 * BLOCK


def test_who_lacks_room_waits_for_what_is_on_its_way_and_only_then_is_refused(
    region: BackingFiles, held: list[Slow], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def lacking(needed_bytes: int) -> str | None:
        asked.append(region.freeing.pending_bytes)
        if held:
            held[0].may.set()
        return "the region is full" if needed_bytes > 1 or asked[-1] else None

    monkeypatch.setattr(region, "_lacking", lacking)
    region.discard(a_file(region, 7))
    region._require_room(1)
    assert [bool(pending) for pending in asked] == [True, False]
    with pytest.raises(RegionFullError):
        region._require_room(2)
    assert len(asked) == 3  # nothing was on its way: asked once


def test_small_files_are_given_back_at_once(
    region: BackingFiles, held: list[Slow], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (tmpfs, memfd):
        monkeypatch.setattr(module, "FREED_AT_ONCE_BYTES", backing_files.FREED_AT_ONCE_BYTES)
    region.discard(a_file(region, 7))
    assert not held


def test_who_leaves_waits_for_what_is_on_its_way(region: BackingFiles, held: list[Slow]) -> None:
    region.discard(a_file(region, 7))
    (slow,) = held
    threading.Timer(0.02, slow.may.set).start()
    region.handover_fds()  # type: ignore[attr-defined]
    assert region.freeing.pending_bytes == 0


class Whole:
    """What statvfs(3) says of a filesystem with that much in use."""

    f_frsize = BLOCK
    f_bfree = 0

    def __init__(self, used_bytes: int) -> None:
        self.f_blocks = used_bytes // BLOCK


def test_regression_a_resize_waits_for_what_is_on_its_way_and_nobody_else_does(
    region: BackingFiles, held: list[Slow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole daemon did, 2 ms for each GiB; to make the region smaller all of it has to be back."""
    seen: list[tuple[int, int]] = []

    def reconfigure(*_: object) -> None:
        seen.append((region.freeing.pending_bytes, len(held)))

    monkeypatch.setattr(mount, "reconfigure", reconfigure)
    monkeypatch.setattr(type(region), "use", lambda self: RegionUse(1 << 30, 0))
    state = new_state(region_bytes=1 << 30, block_bytes=BLOCK, now_ns=1)
    engine = Engine(state, MemoryJournal(), cast(Region, region), FakeKernel())
    region.discard(a_file(region, 7))

    async def remove_another() -> None:
        """Also while the first is waited for."""
        assert await trio.to_thread.run_sync(held[0].began.wait, WITHIN_S)
        region.discard(a_file(region, 8))
        for slow in held:
            slow.may.set()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(remove_another)
            await resize_region(engine, 1 << 29)

    trio.run(main)
    assert seen == [(0, 2)]
    assert engine.state.region_bytes == 1 << 29
