"""Coverage of files in small pages; huge ones need root (tests/mount)."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestmemfs_fuse.linux import coverage, memory

BLOCK = 2 << 20


@pytest.fixture
def fd() -> Iterator[int]:
    """A sparse memfd of 16 MiB."""
    fd = os.memfd_create("coverage")
    os.ftruncate(fd, 8 * BLOCK)
    yield fd
    os.close(fd)


def test_empty_and_sparse_files_stay_so(fd: int) -> None:
    assert coverage.file_coverage(fd) == coverage.Coverage(0, 0, 0, 0)
    assert os.fstat(fd).st_blocks == 0
    os.ftruncate(fd, 0)
    assert coverage.file_coverage(fd).huge_fraction == 0.0


def test_regression_a_file_that_is_cut_between_two_looks_is_no_error(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.pwrite(fd, b"a", BLOCK)
    lseek = os.lseek

    def cutting(file: int, at: int, whence: int) -> int:
        if whence == os.SEEK_HOLE:
            os.ftruncate(file, 0)
        return lseek(file, at, whence)

    monkeypatch.setattr(os, "lseek", cutting)
    assert coverage.data_ranges(fd, 8 * BLOCK) == []


def test_holes_between_data_are_not_allocated(fd: int) -> None:
    os.pwrite(fd, b"a", BLOCK)
    os.pwrite(fd, b"b", 5 * BLOCK + 4096)
    found = coverage.file_coverage(fd)
    assert (found.resident_bytes, found.measured_bytes) == (8192, 8192)
    assert os.fstat(fd).st_blocks * 512 == 8192


def test_limit_hides_what_is_behind_it(fd: int) -> None:
    os.pwrite(fd, b"a", 0)
    os.pwrite(fd, b"b", BLOCK)
    assert coverage.file_coverage(fd, BLOCK).measured_bytes == 4096


def test_unused_space_is_seen_and_hardly_touched(fd: int) -> None:
    memory.fallocate(fd, 0, 0, 8 * BLOCK)
    first = coverage.file_coverage(fd, sample_blocks=2)
    assert (first.resident_bytes, first.untouched_bytes) == (8 * BLOCK, 8 * BLOCK)
    assert first.measured_bytes == 2 * BLOCK
    # The sample is at the same place again, so nothing more is touched.
    second = coverage.file_coverage(fd, sample_blocks=2)
    third = coverage.file_coverage(fd, sample_blocks=2)
    assert second.untouched_bytes == third.untouched_bytes >= 6 * BLOCK


def test_without_cachestat_a_file_without_holes_counts_as_unused(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object) -> int:
        raise OSError(38, "cachestat: Function not implemented")

    memory.fallocate(fd, 0, 0, 8 * BLOCK)
    monkeypatch.setattr(coverage, "cached_bytes", missing)
    assert coverage.file_coverage(fd).untouched_bytes == 8 * BLOCK
    memory.fallocate(fd, memory.FALLOC_FL_PUNCH_HOLE | memory.FALLOC_FL_KEEP_SIZE, 0, 8 * BLOCK)
    memory.fallocate(fd, 0, 0, BLOCK)
    assert coverage.file_coverage(fd).untouched_bytes == 0
    assert os.fstat(fd).st_blocks * 512 == BLOCK


def test_cached_bytes_counts_unused_pages(fd: int) -> None:
    memory.fallocate(fd, 0, BLOCK, BLOCK)
    assert coverage.cached_bytes(fd, 0, 4 * BLOCK) == BLOCK
    assert coverage.data_ranges(fd, 8 * BLOCK) == []


RANGES = st.lists(st.booleans(), max_size=40).map(
    lambda bits: [(i * BLOCK, (i + 1) * BLOCK) for i, bit in enumerate(bits) if bit]
)


@given(RANGES, st.integers(0, 50))
def test_sample_is_within_what_is_allocated_and_within_the_limit(
    ranges: list[coverage.Range], wanted: int
) -> None:
    sample = coverage._sample(ranges[::2], ranges[1::2], wanted)
    assert len(sample) == len(set(sample)) == min(wanted, len(ranges))
    assert set(sample) <= set(ranges)
    assert sample == coverage._sample(ranges, [], wanted)


@given(RANGES)
def test_gaps_and_ranges_fill_the_file(ranges: list[coverage.Range]) -> None:
    merged = coverage._merged(ranges)
    parts = sorted(merged + coverage._gaps(merged, 40 * BLOCK))
    assert [start for start, _ in parts] == [0, *(end for _, end in parts)][: len(parts)]
    assert parts[-1][1] == 40 * BLOCK
