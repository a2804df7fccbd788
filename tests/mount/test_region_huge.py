"""--huge prefer|require on a real tmpfs: memory that did not come in huge pages is mended or refused.

A host that has no huge pages left is played by the private tmpfs itself: with huge=never it gives small ones.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from guestmemfs_fuse.core.errors import RegionFullError
from guestmemfs_fuse.core.state import Inode
from guestmemfs_fuse.core.types import Ino
from guestmemfs_fuse.linux import coverage, memory, mount
from guestmemfs_fuse.region import huge_policy, tmpfs_mount
from guestmemfs_fuse.region.huge_policy import HugeCounters, HugePolicy, read_counters
from guestmemfs_fuse.region.tmpfs import TmpfsRegion
from tests.cli import Guestmemfs
from tests.require import require

BLOCK = 2 << 20
SIZE = 64 << 20


@pytest.fixture
def region(private_dir: Path) -> Iterator[TmpfsRegion]:
    """A tmpfs region that requires huge pages, with one empty file, inode 2."""
    require(os.geteuid() == 0, "root")
    root = str(private_dir / "region")
    tmpfs_mount.create(root, SIZE)
    made = TmpfsRegion(root, SIZE, BLOCK)
    made.huge_policy = HugePolicy("require")
    made.create(Ino(2))
    yield made
    made.close()
    tmpfs_mount.destroy(root)


def give(region: TmpfsRegion, huge: str) -> None:
    """What the tmpfs gives from now on: always or never huge pages."""
    mount.reconfigure(region.root_path, {"huge": huge})


@pytest.fixture
def stingy(region: TmpfsRegion, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives small pages, and nobody else of this host gets huge ones that could be taken for ours."""
    give(region, "never")
    monkeypatch.setattr(huge_policy, "read_counters", lambda: HugeCounters(0, 0))


def inode(size_bytes: int = 0) -> Inode:
    return Inode(Ino(2), 0o100600, 0, 0, 1, 0, 0, 0, size_bytes=size_bytes)


def grow(region: TmpfsRegion, old: int, new: int) -> None:
    region.fill(inode(old), old, new, lambda: False)
    region.settle(inode(new))


def huge_bytes(region: TmpfsRegion, size: int) -> int:
    return region.huge_bytes(inode(size))


def with_small_pages(region: TmpfsRegion, size: int, *, used: bool) -> int:
    """Give the file memory in small pages, used or not; returns a descriptor."""
    give(region, "never")
    fd = region.open_backing(Ino(2))
    memory.fallocate(fd, 0, 0, size)
    if used:
        with mmap.mmap(fd, size) as view:
            for at in range(0, size, 4096):
                view[at : at + 2] = b"ab"
    give(region, "always")
    return fd


def test_memory_of_a_quiet_host_is_proven_huge_without_being_touched(region: TmpfsRegion) -> None:
    before = read_counters()
    grow(region, 0, 8 * BLOCK)
    assert read_counters().given - before.given >= 8
    fd = region.open_backing(Ino(2))
    try:
        assert coverage.data_ranges(fd, 8 * BLOCK) == []
    finally:
        os.close(fd)
    assert huge_bytes(region, 8 * BLOCK) == 8 * BLOCK


def test_what_does_not_come_huge_is_refused_and_rolled_back(
    region: TmpfsRegion, stingy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RegionFullError, match="no huge pages left for 4 of 4 blocks"):
        region.fill(inode(), 0, 4 * BLOCK, lambda: False)
    assert region.stat(inode()).allocated_bytes == 0
    monkeypatch.undo()
    give(region, "always")
    grow(region, 0, 4 * BLOCK)
    assert huge_bytes(region, 4 * BLOCK) == 4 * BLOCK


def test_preferred_huge_pages_that_are_not_to_be_had_are_done_without(
    region: TmpfsRegion, stingy: None
) -> None:
    region.huge_policy = HugePolicy("prefer")
    grow(region, 0, 40 * BLOCK // 2)
    assert region.stat(inode()).allocated_bytes == 20 * BLOCK
    assert region.huge_policy.small_blocks == 20
    assert huge_bytes(region, 20 * BLOCK) == 0


@pytest.mark.parametrize("wish", ["prefer", "require"])
def test_unused_small_pages_behind_the_end_are_allocated_again(region: TmpfsRegion, wish: str) -> None:
    region.huge_policy = HugePolicy(wish)  # type: ignore[arg-type]
    give(region, "never")
    fd = region.open_backing(Ino(2))
    for at in range(0, 4 * BLOCK, 8192):  # half of each block, in pieces: no block is empty
        memory.fallocate(fd, memory.FALLOC_FL_KEEP_SIZE, at, 4096)
    os.close(fd)
    give(region, "always")
    grow(region, 0, 4 * BLOCK)
    assert huge_bytes(region, 4 * BLOCK) == 4 * BLOCK


def test_data_with_holes_is_collapsed_and_stays_what_it_was(region: TmpfsRegion) -> None:
    fd = with_small_pages(region, 4 * BLOCK, used=True)
    hole = memory.FALLOC_FL_PUNCH_HOLE | memory.FALLOC_FL_KEEP_SIZE
    for at in range(0, 4 * BLOCK, BLOCK):
        memory.fallocate(fd, hole, at + 8192, 4096)
    assert huge_bytes(region, 4 * BLOCK) == 0
    region.fill(inode(4 * BLOCK), 0, 4 * BLOCK, lambda: False)
    assert huge_bytes(region, 4 * BLOCK) == 4 * BLOCK
    with mmap.mmap(fd, 4 * BLOCK) as view:
        for at in range(0, 4 * BLOCK, 4096):
            assert view[at : at + 2] == (b"\0\0" if at % BLOCK == 8192 else b"ab"), at
    os.close(fd)


def test_what_another_process_stores_right_after_is_not_lost(region: TmpfsRegion) -> None:
    """The trap of collapsing unused memory: stores through one mapping vanish at the next one's fault."""
    fd = with_small_pages(region, 2 * BLOCK, used=False)
    memory.fallocate(fd, memory.FALLOC_FL_PUNCH_HOLE | memory.FALLOC_FL_KEEP_SIZE, 0, 4096)
    region.fill(inode(2 * BLOCK), 0, 2 * BLOCK, lambda: False)
    with mmap.mmap(fd, 2 * BLOCK) as first:
        for at in range(0, 2 * BLOCK, 4096):
            first[at : at + 2] = b"xy"
        if (child := os.fork()) == 0:
            other = mmap.mmap(fd, 2 * BLOCK)
            is_there = all(other[at : at + 2] == b"xy" for at in range(0, 2 * BLOCK, 4096))
            os._exit(0 if is_there else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert all(first[at : at + 2] == b"xy" for at in range(0, 2 * BLOCK, 4096))
    os.close(fd)


@pytest.mark.parametrize("size", [4096, BLOCK + 1, 3 * BLOCK - 4096])
def test_a_file_that_ends_inside_a_block_can_be_had(region: TmpfsRegion, size: int) -> None:
    grow(region, 0, size)
    assert region.stat(inode(size)).allocated_bytes == -(-size // BLOCK) * BLOCK
    fd = region.open_backing(Ino(2))
    memory.fallocate(fd, memory.FALLOC_FL_PUNCH_HOLE | memory.FALLOC_FL_KEEP_SIZE, 0, 4096)
    os.close(fd)
    region.fill(inode(size), 0, size, lambda: False)  # and its block with the end mended
    grow(region, size, 8 * BLOCK)
    assert huge_bytes(region, 8 * BLOCK) == 8 * BLOCK


def test_an_interrupted_repair_leaves_nothing(region: TmpfsRegion, stingy: None) -> None:
    answers = iter([False, False, True])
    with pytest.raises(Exception, match="gave up"):
        region.fill(inode(), 0, 8 * BLOCK, lambda: next(answers))
    assert region.stat(inode()).allocated_bytes == 0


# -- by the command line ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["tmpfs", "memfd"])
def test_a_file_of_a_requiring_instance_is_huge(guestmemfs: Guestmemfs, kind: str) -> None:
    instance = guestmemfs.mount("gm", "--region", kind, "--huge", "require")
    file = instance.mountpoint / "ram"
    file.touch()
    os.truncate(file, 8 * BLOCK)
    assert guestmemfs.json("map", file)["huge_fraction"] == 1.0


def test_truncate_answers_enospc_where_huge_pages_are_required_and_lacking(guestmemfs: Guestmemfs) -> None:
    instance = guestmemfs.mount("gm", "--huge", "require")
    file = instance.mountpoint / "ram"
    file.touch()
    region = str(instance.state_dir / "region")
    mount.reconfigure(region, {"huge": "never"})
    with pytest.raises(OSError) as caught:
        os.truncate(file, 8 * BLOCK)
    assert caught.value.errno == errno.ENOSPC
    assert (file.stat().st_size, file.stat().st_blocks) == (0, 0)
    mount.reconfigure(region, {"huge": "always"})
    os.truncate(file, 8 * BLOCK)
    assert file.stat().st_blocks * 512 == 8 * BLOCK


def test_another_wish_than_the_instance_was_made_with_is_refused(guestmemfs: Guestmemfs) -> None:
    instance = guestmemfs.mount("gm", "--huge", "require")
    instance.umount()
    done = guestmemfs.run("mount", instance.mountpoint, "--name", "gm", "--huge", "prefer", check=False)
    assert done.returncode == 2
    assert "exists with --huge require, not prefer" in done.stderr
