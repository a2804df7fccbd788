"""Mappings, advice and file space, on plain shmem files."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from guestmemfs_fuse.linux import memory

MIB = 1 << 20
FALLOC_FL_COLLAPSE_RANGE = 0x08
# A mapping reserves 2 MiB more than it needs. The interpreter takes and gives back memory as well, a MiB at a
# time and when it likes: only what many leave behind stands out.
MANY = 16
NOISE_BYTES = 8 * MIB


@pytest.fixture
def fd() -> Iterator[int]:
    """A sparse memfd of 8 MiB."""
    fd = os.memfd_create("memory")
    os.ftruncate(fd, 8 * MIB)
    yield fd
    os.close(fd)


def address_space() -> int:
    return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")


def is_mapped(address: int) -> bool:
    starts = [line.split("-")[0] for line in Path("/proc/self/maps").read_text().splitlines()]
    return f"{address:08x}" in starts


def test_mapping_reads_and_writes_the_file_at_its_offset(fd: int) -> None:
    os.pwrite(fd, b"hello", 2 * MIB + 10)
    with memory.Mapping(fd, MIB, prot=memory.PROT_READ | memory.PROT_WRITE, offset_bytes=2 * MIB) as mapping:
        assert mapping.read(10, 5) == b"hello"
        mapping.write(0, b"there")
    assert os.pread(fd, 5, 2 * MIB) == b"there"


def test_mapping_is_aligned_to_huge_pages_and_gone_afterwards(fd: int) -> None:
    with memory.Mapping(fd, 3 * MIB) as mapping:
        address = mapping.address
        assert address % (2 * MIB) == 0
        assert is_mapped(address)
    assert not is_mapped(address)
    mapping.close()


def test_mapping_gives_back_what_it_reserved(fd: int) -> None:
    before = address_space()
    with contextlib.ExitStack() as mappings:
        for _ in range(MANY):
            mappings.enter_context(memory.Mapping(fd, 8 * MIB))
        assert abs(address_space() - before - MANY * 8 * MIB) < NOISE_BYTES
    assert abs(address_space() - before) < NOISE_BYTES


def test_failed_mapping_leaves_nothing(tmp_path: Path) -> None:
    file = os.open(tmp_path / "writeonly", os.O_WRONLY | os.O_CREAT)
    try:
        before = address_space()
        with pytest.raises(PermissionError, match="mmap"):
            memory.Mapping(file, 64 * MIB)
        assert abs(address_space() - before) < NOISE_BYTES
    finally:
        os.close(file)


def test_access_outside_of_the_mapping_is_refused(fd: int) -> None:
    with memory.Mapping(fd, MIB, prot=memory.PROT_READ | memory.PROT_WRITE) as mapping:
        with pytest.raises(IndexError):
            mapping.read(MIB - 1, 2)
        with pytest.raises(IndexError):
            mapping.write(-1, b"x")


def test_nothing_cannot_be_mapped(fd: int) -> None:
    with pytest.raises(ValueError, match="nothing"):
        memory.Mapping(fd, 0)


def test_populate_allocates_just_the_part(fd: int) -> None:
    with memory.Mapping(fd, 8 * MIB, prot=memory.PROT_READ | memory.PROT_WRITE) as mapping:
        mapping.advise(memory.MADV_POPULATE_WRITE, 2 * MIB, MIB)
    assert os.fstat(fd).st_blocks * 512 == MIB


def test_unknown_advice_is_an_error(fd: int) -> None:
    with memory.Mapping(fd, MIB) as mapping, pytest.raises(OSError, match="madvise"):
        mapping.advise(9999)


def test_fallocate_allocates_beyond_the_end_and_punches_holes(fd: int) -> None:
    memory.fallocate(fd, memory.FALLOC_FL_KEEP_SIZE, 8 * MIB, MIB)
    assert os.fstat(fd).st_size == 8 * MIB
    assert os.fstat(fd).st_blocks * 512 == MIB
    memory.fallocate(fd, memory.FALLOC_FL_PUNCH_HOLE | memory.FALLOC_FL_KEEP_SIZE, 8 * MIB, MIB)
    assert os.fstat(fd).st_blocks == 0


def test_fallocate_says_what_the_filesystem_cannot(fd: int) -> None:
    with pytest.raises(OSError, match="fallocate") as caught:
        memory.fallocate(fd, FALLOC_FL_COLLAPSE_RANGE, 0, MIB)
    assert caught.value.errno == errno.EOPNOTSUPP


def test_filesystem_type_of_shmem(fd: int) -> None:
    assert memory.filesystem_type(fd) == 0x01021994  # TMPFS_MAGIC


def test_a_thread_allocates_on_one_node_inside_the_block_only() -> None:
    def policies() -> set[str]:
        # The stack only: OpenBLAS, which `make bench` installs, gives its own buffers another policy.
        lines = Path("/proc/thread-self/numa_maps").read_text().split("\n")
        return {words[1] for words in map(str.split, lines) if "stack" in words}

    with memory.allocating_on(0):
        assert policies() == {"bind:0"}
    assert policies() == {"default"}
    with memory.allocating_on(None):
        assert policies() == {"default"}
    with pytest.raises(OSError, match="set_mempolicy"), memory.allocating_on(1000):
        pytest.fail("there is no such node")
