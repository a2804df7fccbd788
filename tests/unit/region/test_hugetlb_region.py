"""The hugetlb kind's own arithmetic, on a plain file: what is punched, and what must not be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from guestmemfs_fuse.core.state import Inode, State, new_state
from guestmemfs_fuse.core.types import BlockNumber, Extent, Ino
from guestmemfs_fuse.region.hugetlb import HugetlbRegion, without

BLOCK = 1 << 16


def ex(start: int, count: int) -> Extent:
    return Extent(BlockNumber(start), count)


@pytest.mark.parametrize(
    ("extents", "bad", "left"),
    [
        ([], [(1, 1)], []),
        ([(0, 4)], [], [(0, 4)]),
        ([(0, 4)], [(0, 4)], []),
        ([(0, 4)], [(0, 1)], [(1, 3)]),
        ([(0, 4)], [(3, 1)], [(0, 3)]),
        ([(0, 4)], [(2, 1), (1, 1)], [(0, 1), (3, 1)]),
        ([(2, 3)], [(0, 3), (4, 9)], [(3, 1)]),
        ([(8, 2), (0, 4)], [(1, 1), (9, 1)], [(8, 1), (0, 1), (2, 2)]),
    ],
)
def test_bad_blocks_are_cut_out_of_extents(
    extents: list[tuple[int, int]], bad: list[tuple[int, int]], left: list[tuple[int, int]]
) -> None:
    found = without(tuple(ex(*each) for each in extents), tuple(ex(*each) for each in bad))
    assert list(found) == [ex(*each) for each in left]


@pytest.fixture
def state() -> State:
    return new_state(region_bytes=8 * BLOCK, block_bytes=BLOCK, now_ns=1, extents=True)


@pytest.fixture
def region(tmp_path: Path, state: State) -> Iterator[HugetlbRegion]:
    """On a filesystem that punches holes as hugetlbfs does; every byte is 0xff."""
    made = HugetlbRegion(str(tmp_path), str(tmp_path), 8 * BLOCK, BLOCK)
    made.attach(state)
    Path(made.path).write_bytes(b"\xff" * (8 * BLOCK))
    yield made
    made.close()


def zeroes(region: HugetlbRegion) -> list[tuple[int, int]]:
    """The ranges of the region file that read as zero."""
    raw = Path(region.path).read_bytes()
    runs, start = [], None
    for at, byte in enumerate([*raw, 1]):
        if byte == 0 and start is None:
            start = at
        elif byte and start is not None:
            runs.append((start, at))
            start = None
    return runs


def a_file(size_bytes: int, *extents: tuple[int, int]) -> Inode:
    inode = Inode(Ino(2), 0o100600, 0, 0, 1, 0, 0, 0, size_bytes=size_bytes)
    inode.extents = tuple(ex(*each) for each in extents)
    return inode


def test_attaching_gives_back_the_pages_of_free_blocks_and_no_others(
    region: HugetlbRegion, state: State
) -> None:
    assert state.free is not None
    state.free.take([ex(1, 2), ex(5, 1)])
    region.attach(state)
    assert zeroes(region) == [(0, BLOCK), (3 * BLOCK, 5 * BLOCK), (6 * BLOCK, 8 * BLOCK)]


def test_a_quarantined_block_keeps_its_page(region: HugetlbRegion, state: State) -> None:
    state.quarantined = (ex(3, 1),)
    region.release((ex(2, 3),))
    assert zeroes(region) == [(2 * BLOCK, 3 * BLOCK), (4 * BLOCK, 5 * BLOCK)]


@pytest.mark.parametrize(
    ("size", "end", "cleared"),
    [
        (100, 200, [(100, 200)]),
        (100, 3 * BLOCK, [(100, BLOCK), (4 * BLOCK, 6 * BLOCK)]),
        (BLOCK, BLOCK + 5, [(4 * BLOCK, 4 * BLOCK + 5)]),
        (3 * BLOCK, 9 * BLOCK, []),
        (2 * BLOCK, BLOCK, []),
    ],
)
def test_growth_clears_what_lay_behind_the_end_in_blocks_the_file_has(
    region: HugetlbRegion, size: int, end: int, cleared: list[tuple[int, int]]
) -> None:
    region.fill(a_file(size, (0, 1), (4, 2)), size, end, lambda: False)
    assert zeroes(region) == cleared


def test_a_hole_is_punched_to_the_byte_across_extents(region: HugetlbRegion) -> None:
    region.punch(a_file(3 * BLOCK, (0, 1), (4, 2)), BLOCK - 10, BLOCK + 20)
    assert zeroes(region) == [(BLOCK - 10, BLOCK), (4 * BLOCK, 5 * BLOCK + 10)]


def test_the_region_file_has_the_regions_size(region: HugetlbRegion) -> None:
    assert os.stat(region.path).st_size == 8 * BLOCK
