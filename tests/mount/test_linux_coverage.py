"""Huge-page coverage of files on filesystems of our own."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from guestmemfs_fuse.linux import memory, mount
from guestmemfs_fuse.linux.coverage import file_coverage
from tests.require import require
from tests.zoo.rig import huge_pages

BLOCK = 2 << 20
BLOCKS = 40
SIZE = BLOCKS * BLOCK
READ_WRITE = memory.PROT_READ | memory.PROT_WRITE
PUNCH = memory.FALLOC_FL_PUNCH_HOLE | memory.FALLOC_FL_KEEP_SIZE


def unnamed_file(fstype: str, options: dict[str, str | None]) -> int:
    mount_fd = mount.new_filesystem(fstype, options)
    try:
        return os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600, dir_fd=mount_fd)
    finally:
        os.close(mount_fd)


def use(fd: int, offset_bytes: int, length_bytes: int) -> None:
    with memory.Mapping(fd, length_bytes, prot=READ_WRITE, offset_bytes=offset_bytes) as mapping:
        mapping.advise(memory.MADV_POPULATE_WRITE)


@pytest.fixture
def huge() -> Iterator[int]:
    """A file of 80 MiB on a tmpfs with huge=always, allocated but not used."""
    require(os.geteuid() == 0, "root")
    fd = unnamed_file("tmpfs", {"huge": "always", "size": "256M"})
    memory.fallocate(fd, 0, 0, SIZE)
    yield fd
    os.close(fd)


def test_used_file_is_huge_throughout(huge: int) -> None:
    use(huge, 0, SIZE)
    found = file_coverage(huge)
    assert (found.resident_bytes, found.huge_bytes, found.measured_bytes) == (SIZE, SIZE, SIZE)
    assert (found.untouched_bytes, found.huge_fraction) == (0, 1.0)


def test_unused_file_is_judged_by_a_sample_that_stays_the_same(huge: int) -> None:
    first = file_coverage(huge)
    assert (first.huge_bytes, first.measured_bytes, first.untouched_bytes) == (SIZE, 16 * BLOCK, SIZE)
    second = file_coverage(huge)
    assert second.untouched_bytes == file_coverage(huge).untouched_bytes == SIZE - 16 * BLOCK
    assert second.huge_fraction == 1.0


def test_holes_are_not_allocated_by_looking(huge: int) -> None:
    memory.fallocate(huge, PUNCH, 3 * BLOCK, 7 * BLOCK)
    use(huge, 0, BLOCK)
    found = file_coverage(huge)
    assert os.fstat(huge).st_blocks * 512 == found.resident_bytes == SIZE - 7 * BLOCK
    assert found.huge_fraction == 1.0


def test_split_block_is_not_huge(huge: int) -> None:
    use(huge, 0, SIZE)
    memory.fallocate(huge, PUNCH, 5 * BLOCK + 4096, 4096)
    found = file_coverage(huge)
    assert found.huge_bytes == SIZE - BLOCK
    assert found.resident_bytes == found.measured_bytes == SIZE - 4096


@pytest.mark.parametrize("used", [False, True], ids=["unused", "used"])
@pytest.mark.parametrize("size", [BLOCK // 2, 3 * BLOCK // 2, 5 * BLOCK + 1])
def test_regression_the_last_block_counts_where_the_file_ends_inside_it(size: int, used: bool) -> None:
    """A file of 1 MiB has one huge page, and `status` said 0%."""
    require(os.geteuid() == 0, "root")
    blocks = -(-size // BLOCK)
    fd = unnamed_file("tmpfs", {"huge": "always", "size": "256M"})
    try:
        memory.fallocate(fd, memory.FALLOC_FL_KEEP_SIZE, 0, blocks * BLOCK)
        os.ftruncate(fd, size)
        if used:
            use(fd, 0, size)
        found = file_coverage(fd)
        assert (found.resident_bytes, found.huge_bytes) == (blocks * BLOCK, blocks * BLOCK)
        assert os.fstat(fd).st_blocks * 512 == blocks * BLOCK
    finally:
        os.close(fd)


def test_a_last_block_in_small_pages_is_not_huge(huge: int) -> None:
    use(huge, 0, SIZE)
    memory.fallocate(huge, PUNCH, SIZE - BLOCK + 4096, 4096)
    os.ftruncate(huge, SIZE - BLOCK // 2)
    assert file_coverage(huge).huge_bytes == SIZE - BLOCK


def test_small_pages_are_not_huge() -> None:
    require(os.geteuid() == 0, "root")
    fd = unnamed_file("tmpfs", {"huge": "never", "size": "256M"})
    try:
        memory.fallocate(fd, 0, 0, SIZE)
        assert file_coverage(fd).huge_fraction == 0.0
        use(fd, 0, SIZE)
        found = file_coverage(fd)
        assert (found.huge_bytes, found.measured_bytes) == (0, SIZE)
    finally:
        os.close(fd)


def test_agrees_with_smaps_where_the_kernel_has_no_pagemap_scan(
    huge: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    from guestmemfs_fuse.linux import coverage

    def missing(fd: int, request: int, arg: bytearray) -> int:
        raise OSError(25, "Inappropriate ioctl for device")

    use(huge, 0, SIZE)
    memory.fallocate(huge, PUNCH, 5 * BLOCK + 4096, 4096)
    expected = file_coverage(huge)
    monkeypatch.setattr(coverage.fcntl, "ioctl", missing)
    assert file_coverage(huge) == expected


def test_file_in_use_elsewhere_keeps_its_bytes(huge: int) -> None:
    with memory.Mapping(huge, SIZE, prot=READ_WRITE) as guest:
        guest.write(BLOCK + 7, b"guest")
        file_coverage(huge)
        guest.write(2 * BLOCK, b"more")
        file_coverage(huge)
        assert (guest.read(BLOCK + 7, 5), guest.read(2 * BLOCK, 4)) == (b"guest", b"more")
    assert os.pread(huge, 5, BLOCK + 7) == b"guest"


def test_own_memory_stays_small_while_looking() -> None:
    require(os.geteuid() == 0, "root")
    size = 256 << 20
    fd = unnamed_file("tmpfs", {"huge": "always", "size": "512M"})
    try:
        memory.fallocate(fd, 0, 0, size)
        use(fd, 0, size)
        before = peak_bytes(reset=True)
        assert file_coverage(fd).huge_bytes == size
        assert peak_bytes() - before < 100 << 20
    finally:
        os.close(fd)


def peak_bytes(*, reset: bool = False) -> int:
    if reset:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))


def test_hugetlb_file_is_huge_by_nature() -> None:
    require(os.geteuid() == 0, "root")
    with huge_pages(4):
        fd = unnamed_file("hugetlbfs", {"pagesize": "2M"})
        try:
            os.ftruncate(fd, 4 * BLOCK)
            memory.fallocate(fd, 0, BLOCK, 2 * BLOCK)
            found = file_coverage(fd)
            assert (found.resident_bytes, found.huge_bytes) == (2 * BLOCK, 2 * BLOCK)
            with memory.Mapping(fd, 4 * BLOCK) as mapping:
                assert mapping.read(BLOCK, 1) == b"\0"
        finally:
            os.close(fd)
