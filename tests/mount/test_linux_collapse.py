"""Collapsing what holds data, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from guestmemfs_fuse.linux import memory, mount
from guestmemfs_fuse.linux.collapse import collapse_data
from guestmemfs_fuse.linux.coverage import data_ranges, file_coverage
from tests.require import require

BLOCK = 2 << 20
BLOCKS = 40
SIZE = BLOCKS * BLOCK


def file_on_tmpfs(huge: str) -> Iterator[int]:
    require(os.geteuid() == 0, "root")
    mount_fd = mount.new_filesystem("tmpfs", {"huge": huge, "size": "256M"})
    fd = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600, dir_fd=mount_fd)
    os.close(mount_fd)
    memory.fallocate(fd, 0, 0, SIZE)
    yield fd
    os.close(fd)


@pytest.fixture
def small() -> Iterator[int]:
    """80 MiB in 4K pages, allocated but not used."""
    yield from file_on_tmpfs("never")


@pytest.fixture
def huge() -> Iterator[int]:
    """80 MiB in huge pages, allocated but not used."""
    yield from file_on_tmpfs("always")


def test_small_pages_with_data_become_huge_and_keep_their_bytes(small: int) -> None:
    for block in range(BLOCKS):
        os.pwrite(small, b"%d" % block, block * BLOCK + 5000)
    assert file_coverage(small).huge_bytes == 0
    assert collapse_data(small, SIZE) == BLOCKS
    assert file_coverage(small).huge_bytes == SIZE
    for block in range(BLOCKS):
        assert os.pread(small, 3, block * BLOCK + 5000).rstrip(b"\0") == b"%d" % block


def test_unused_blocks_are_left_alone(huge: int) -> None:
    os.pwrite(huge, b"x", 3 * BLOCK)
    assert collapse_data(huge, SIZE) == 1
    assert data_ranges(huge, SIZE) == [(3 * BLOCK, 4 * BLOCK)]


def test_writes_after_collapsing_survive_another_mapping(huge: int) -> None:
    collapse_data(huge, SIZE)
    with memory.Mapping(huge, BLOCK, prot=memory.PROT_READ | memory.PROT_WRITE) as guest:
        guest.write(100, b"precious")
        with memory.Mapping(huge, BLOCK) as other:
            assert other.read(100, 8) == b"precious"


def test_partial_block_at_the_end_is_left_alone(small: int) -> None:
    os.pwrite(small, b"x", 0)
    assert collapse_data(small, BLOCK - 1) == 0
    assert collapse_data(small, BLOCK + 1) == 1
