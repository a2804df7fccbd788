"""Backings follow the journal on a real tmpfs: what an interrupted allocation left is given back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from guestmemfs_fuse.core.errors import RegionFullError
from guestmemfs_fuse.core.state import Inode
from guestmemfs_fuse.core.types import Ino
from guestmemfs_fuse.linux import memory, mount
from guestmemfs_fuse.region import tmpfs_mount
from guestmemfs_fuse.region.tmpfs import TmpfsRegion
from tests.require import require

MIB = 1 << 20
BLOCK = 2 * MIB


@pytest.fixture
def region(private_dir: Path) -> Iterator[TmpfsRegion]:
    require(os.geteuid() == 0, "root")
    root = str(private_dir / "region")
    tmpfs_mount.create(root, 64 * MIB)
    region = TmpfsRegion(root, 64 * MIB, BLOCK)
    yield region
    region.close()
    tmpfs_mount.destroy(root)


def test_regression_all_memory_behind_a_file_is_given_back_not_one_block(region: TmpfsRegion) -> None:
    """A daemon killed in a long allocation left everything but 2 MiB allocated for ever."""
    inode = Inode(Ino(5), 0o100600, 0, 0, 1, 0, 0, 0, size_bytes=BLOCK + 1)
    region.create(inode.ino)
    fd = region.open_backing(inode.ino)
    os.ftruncate(fd, BLOCK + 1)
    memory.fallocate(fd, memory.FALLOC_FL_KEEP_SIZE, 0, 12 * BLOCK)
    memory.fallocate(fd, memory.FALLOC_FL_KEEP_SIZE, 1 << 40, BLOCK)
    os.close(fd)
    assert region.stat(inode).allocated_bytes == 13 * BLOCK
    region.settle(inode)
    assert region.stat(inode).allocated_bytes == 2 * BLOCK
    assert region.stat(inode).size_bytes == BLOCK + 1


def test_regression_a_filesystem_without_inodes_is_full_not_broken(region: TmpfsRegion) -> None:
    """It was EIO and a traceback; a dax region's filesystem can run out of them any time."""
    mount.reconfigure(region.root_path, {"nr_inodes": "5"})
    region.create(Ino(5))
    region.create(Ino(6))
    with pytest.raises(RegionFullError, match="No space left on device"):
        region.create(Ino(7))
    region.create(Ino(6))
