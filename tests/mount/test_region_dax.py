"""The dax kind's bookkeeping on an ext4 with 2M clusters, in a loop device: all of it but DAX itself.

What needs DAX (mmap, kexec, the refusal of a directory without it) is in tests/vm/test_kexec_dax.py.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from guestmemfs_fuse.core.errors import InstanceBusyError, OutOfMemoryError, RegionFullError, UnsupportedError
from guestmemfs_fuse.core.state import Inode
from guestmemfs_fuse.core.types import Ino
from guestmemfs_fuse.linux import memory
from guestmemfs_fuse.region import dax
from guestmemfs_fuse.region.base import RegionUse
from guestmemfs_fuse.region.dax import DaxRegion
from tests.require import require

MIB = 1 << 20
BLOCK = 2 * MIB
REGION = 64 * MIB


def never() -> bool:
    return False


@pytest.fixture
def directory(private_dir: Path) -> Iterator[Path]:
    require(os.geteuid() == 0, "root")
    require(shutil.which("mkfs.ext4"), "mkfs.ext4 (run scripts/vm-setup)")
    image, mounted = private_dir / "image", private_dir / "ext4"
    mounted.mkdir()
    with open(image, "wb") as file:
        file.truncate(192 * MIB)
    subprocess.run(
        ["mkfs.ext4", "-q", "-b", "4096", "-O", "bigalloc", "-C", "2M", "-m", "0", image], check=True
    )
    done = subprocess.run(
        ["mount", "-o", "loop", image, mounted], capture_output=True, text=True, check=False
    )
    require(done.returncode == 0, f"loop devices ({done.stderr.strip()})")
    yield mounted
    subprocess.run(["umount", mounted], check=True)


@pytest.fixture
def region(directory: Path) -> Iterator[DaxRegion]:
    made = DaxRegion(str(directory / "region"), REGION, BLOCK)
    yield made
    made.close()


def make(region: DaxRegion, number: int, size_bytes: int) -> Inode:
    inode = Inode(Ino(number), 0o100600, 0, 0, 0, 0, 0, 0)
    region.create(inode.ino)
    region.fill(inode, 0, size_bytes, never)
    inode.size_bytes = size_bytes
    region.settle(inode)
    return inode


def test_memory_is_whole_blocks_from_the_start_on_2m_boundaries(region: DaxRegion) -> None:
    inode = make(region, 2, 5 * MIB)
    status = region.stat(inode)
    assert (status.size_bytes, status.allocated_bytes) == (5 * MIB, 6 * MIB)
    assert [(e.offset_bytes, e.length_bytes) for e in region.extents(inode)] == [(0, 6 * MIB)]
    assert region.huge_bytes(inode) == 6 * MIB
    assert region.use().used_bytes == 6 * MIB
    region.discard(inode)
    assert region.use().used_bytes == 0


def test_regression_the_filesystems_extent_tree_is_not_guest_memory(region: DaxRegion) -> None:
    """As a guest does that touches its memory here and there: more than four extents need a tree block."""
    inode = make(region, 2, 32 * MIB)
    fd = region.open_backing(inode.ino)
    for at in range(0, 32 * MIB, 2 * BLOCK):
        os.pwrite(fd, b"x" * BLOCK, at)
    os.fsync(fd)
    assert os.fstat(fd).st_blocks * 512 > 32 * MIB, "this filesystem does not do what the test is about"
    os.close(fd)
    assert region.stat(inode).allocated_bytes == 32 * MIB
    assert region.use().used_bytes == 32 * MIB


def test_a_hole_is_found_filled_and_taken_back(region: DaxRegion) -> None:
    inode = make(region, 2, 16 * MIB)
    region.punch(inode, 4 * MIB, 4 * MIB)
    assert region.stat(inode).allocated_bytes == 12 * MIB
    assert [(e.offset_bytes, e.length_bytes) for e in region.extents(inode)] == [
        (0, 4 * MIB),
        (8 * MIB, 8 * MIB),
    ]
    filled = region.fill(inode, 0, 16 * MIB, never)
    assert filled.ranges == ((4 * MIB, 8 * MIB),)
    assert region.stat(inode).allocated_bytes == 16 * MIB
    region.take_back(inode.ino, filled)
    assert region.stat(inode).allocated_bytes == 12 * MIB


def test_preallocation_behind_the_end_counts_and_a_cut_gives_it_back(region: DaxRegion) -> None:
    inode = make(region, 2, 3 * MIB)
    region.fill(inode, 0, 12 * MIB, never)
    assert region.use().used_bytes == region.stat(inode).allocated_bytes == 12 * MIB
    inode.size_bytes = MIB + 1
    region.settle(inode)
    assert region.stat(inode).allocated_bytes == 2 * MIB
    assert region.use().used_bytes == 2 * MIB


def test_the_region_is_full_before_the_filesystem_is(region: DaxRegion) -> None:
    make(region, 2, 40 * MIB)
    with pytest.raises(RegionFullError):
        make(region, 3, 26 * MIB)
    assert region.use().used_bytes == 40 * MIB


def test_a_filesystem_that_is_full_is_said_to_be(region: DaxRegion, directory: Path) -> None:
    with open(directory / "of-others", "wb") as file:
        free_bytes = region.available_bytes()
        memory.fallocate(file.fileno(), 0, 0, free_bytes - 10 * MIB)
    assert region.use().free_bytes <= 10 * MIB
    with pytest.raises(RegionFullError):
        make(region, 2, 20 * MIB)
    assert make(region, 3, 4 * MIB).size_bytes == 4 * MIB


def test_a_directory_without_dax_is_refused_and_the_advice_is_a_recipe(directory: Path) -> None:
    with pytest.raises(UnsupportedError, match="fsdax") as refused:
        dax.create(str(directory / "region"), REGION)
    assert "bigalloc" in (refused.value.hint or "")
    assert os.listdir(directory / "region") == []


def test_a_region_grows_as_far_as_its_filesystem_reaches_and_shrinks_to_its_use(region: DaxRegion) -> None:
    make(region, 2, 40 * MIB)
    region.resize(96 * MIB)
    make(region, 3, 50 * MIB)
    assert region.use() == RegionUse(96 * MIB, 90 * MIB)
    with pytest.raises(InstanceBusyError, match="90 MiB of the region are in use"):
        region.resize(88 * MIB)
    with pytest.raises(OutOfMemoryError):
        region.resize(1 << 40)
    assert region.use() == RegionUse(96 * MIB, 90 * MIB)
    region.resize(90 * MIB)
    assert region.use().free_bytes == 0
    with pytest.raises(RegionFullError):
        make(region, 4, BLOCK)
