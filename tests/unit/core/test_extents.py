"""The free map against a naive model (a set of block numbers), and the choices it must make."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from guestmemfs_fuse.core.errors import BusyFsError, RegionFullError
from guestmemfs_fuse.core.extents import FreeMap
from guestmemfs_fuse.core.types import BlockNumber, Extent


def extent(start: int, count: int) -> Extent:
    return Extent(BlockNumber(start), count)


def free_map(total: int, *free: tuple[int, int]) -> FreeMap:
    """A map in which exactly the given runs (start, count) are free."""
    result = FreeMap(total, used=[extent(0, total)])
    result.free(extent(*run) for run in free)
    return result


def runs_of(blocks: set[int]) -> list[tuple[int, int]]:
    """Maximal runs of a set of numbers, the slow and obvious way."""
    return [
        (start, next(n for n in range(1, len(blocks) + 1) if start + n not in blocks))
        for start in sorted(blocks)
        if start - 1 not in blocks
    ]


# -- which blocks are chosen -------------------------------------------------------------------------


def test_a_new_map_is_one_free_run() -> None:
    figures = FreeMap(10)
    assert (figures.free_blocks, figures.used_blocks, figures.largest_run_blocks) == (10, 0, 10)
    assert (figures.fragment_count, figures.fragmentation) == (1, 0.0)


def test_the_shortest_run_that_is_long_enough_is_taken_and_the_lowest_of_equals() -> None:
    blocks = free_map(40, (0, 9), (10, 4), (20, 4), (30, 3))
    assert blocks.allocate(4) == (extent(10, 4),)
    assert blocks.allocate(4) == (extent(20, 4),)
    assert blocks.allocate(2) == (extent(30, 2),)
    assert blocks.allocate(5) == (extent(0, 5),)


def test_a_request_no_run_can_hold_is_served_longest_first() -> None:
    blocks = free_map(40, (0, 3), (10, 6), (20, 4), (30, 2))
    assert blocks.allocate(11) == (extent(10, 6), extent(20, 4), extent(30, 1))


def test_regression_the_rest_of_a_request_never_lands_in_a_run_already_chosen() -> None:
    blocks = free_map(20, (0, 4), (10, 4))
    assert blocks.allocate(8) == (extent(0, 4), extent(10, 4))


def test_a_growing_file_stays_in_one_piece_where_it_can() -> None:
    blocks = free_map(40, (5, 20), (30, 2))
    assert blocks.find(2) == (extent(30, 2),)
    assert blocks.find(2, after=BlockNumber(5)) == (extent(5, 2),)
    assert blocks.find(21, after=BlockNumber(5)) == (extent(5, 20), extent(30, 1))


def test_nothing_changes_when_there_is_not_enough() -> None:
    blocks = free_map(10, (0, 2), (5, 2))
    before = (blocks.free_extents(), blocks.used_blocks)
    with pytest.raises(RegionFullError):
        blocks.allocate(5)
    assert (blocks.free_extents(), blocks.used_blocks) == before


def test_find_changes_nothing_and_zero_blocks_are_no_extents() -> None:
    blocks = FreeMap(4)
    assert blocks.find(3) == (extent(0, 3),)
    assert blocks.free_blocks == 4
    assert blocks.allocate(0) == ()


# -- refusals ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [extent(2, 1), extent(1, 3), extent(9, 2), extent(-1, 1), extent(0, 0)])
def test_taking_what_is_used_or_outside_is_refused(bad: Extent) -> None:
    blocks = FreeMap(10, used=[extent(2, 1)])
    with pytest.raises(ValueError):
        blocks.take([bad])
    assert blocks.free_blocks == 9


def test_overlapping_files_are_refused_at_construction() -> None:
    with pytest.raises(ValueError, match="in use already"):
        FreeMap(10, used=[extent(0, 4), extent(3, 2)])


@pytest.mark.parametrize("bad", [extent(0, 1), extent(4, 3), extent(8, 1), extent(9, 2)])
def test_freeing_what_is_free_withheld_or_outside_is_refused(bad: Extent) -> None:
    blocks = FreeMap(10, used=[extent(2, 4)], quarantined=[BlockNumber(8)])
    before = blocks.free_extents()
    with pytest.raises(ValueError):
        blocks.free([bad])
    assert blocks.free_extents() == before


# -- quarantine --------------------------------------------------------------------------------------


def test_a_quarantined_free_block_is_never_handed_out() -> None:
    blocks = FreeMap(5)
    blocks.quarantine(BlockNumber(2))
    assert blocks.allocate(4) == (extent(0, 2), extent(3, 2))
    assert (blocks.free_blocks, blocks.withheld_blocks) == (0, 1)


def test_a_quarantined_used_block_stays_with_its_file_and_does_not_come_back() -> None:
    blocks = FreeMap(5)
    file = blocks.allocate(5)
    blocks.quarantine(BlockNumber(2))
    assert (blocks.used_blocks, blocks.withheld_blocks) == (5, 0)
    blocks.free(file)
    assert blocks.free_extents() == (extent(0, 2), extent(3, 2))
    assert blocks.quarantined == (BlockNumber(2),)


def test_a_file_that_holds_a_quarantined_block_is_read_back_from_metadata() -> None:
    blocks = FreeMap(5, used=[extent(1, 3)], quarantined=[BlockNumber(2), BlockNumber(4)])
    assert blocks.free_extents() == (extent(0, 1),)
    assert (blocks.used_blocks, blocks.withheld_blocks) == (3, 1)


# -- resizing ----------------------------------------------------------------------------------------


def test_growing_joins_the_new_blocks_to_a_free_tail() -> None:
    blocks = FreeMap(4, used=[extent(0, 3)])
    blocks.grow(8)
    assert blocks.free_extents() == (extent(3, 5),)


def test_shrinking_over_a_used_block_is_refused_and_changes_nothing() -> None:
    blocks = FreeMap(8, used=[extent(5, 1)])
    with pytest.raises(BusyFsError):
        blocks.shrink(5)
    assert (blocks.total_blocks, blocks.free_blocks) == (8, 7)
    blocks.shrink(6)
    assert blocks.free_extents() == (extent(0, 5),)


def test_quarantine_survives_shrinking_and_growing_again() -> None:
    blocks = FreeMap(8, quarantined=[BlockNumber(6)])
    blocks.shrink(4)
    assert (blocks.free_blocks, blocks.withheld_blocks) == (4, 0)
    blocks.grow(8)
    assert blocks.free_extents() == (extent(0, 6), extent(7, 1))


# -- against the model -------------------------------------------------------------------------------


class AgainstSets(RuleBasedStateMachine):
    """Any sequence of calls, with one set of numbers per file as the model."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 24
        self.map = FreeMap(self.total)
        self.free = set(range(self.total))
        self.bad: set[int] = set()
        self.files: list[tuple[Extent, ...]] = []

    @rule(count=st.integers(1, 12))
    def allocate(self, count: int) -> None:
        if count > len(self.free):
            with pytest.raises(RegionFullError):
                self.map.allocate(count)
            return
        runs = runs_of(self.free)
        got = self.map.allocate(count)
        blocks = [block for piece in got for block in range(piece.start, piece.end)]
        assert len(blocks) == len(set(blocks)) == count
        assert set(blocks) <= self.free
        fitting = [length for _, length in runs if length >= count]
        if fitting:
            assert len(got) == 1
            assert min(fitting) == next(n for start, n in runs if start == got[0].start)
        else:
            assert len(got) == self.fewest_pieces([length for _, length in runs], count)
        self.free -= set(blocks)
        self.files.append(got)

    @staticmethod
    def fewest_pieces(lengths: list[int], count: int) -> int:
        pieces = 0
        for length in sorted(lengths, reverse=True):
            pieces += 1
            count -= length
            if count <= 0:
                break
        return pieces

    @precondition(lambda self: self.files)
    @rule(data=st.data())
    def free_one(self, data: st.DataObject) -> None:
        file = self.files.pop(data.draw(st.integers(0, len(self.files) - 1)))
        self.map.free(file)
        self.free |= {block for piece in file for block in range(piece.start, piece.end)} - self.bad

    @rule(block=st.integers(0, 31))
    def quarantine(self, block: int) -> None:
        self.map.quarantine(BlockNumber(block))
        self.bad.add(block)
        self.free.discard(block)

    @rule(more=st.integers(0, 6))
    def grow(self, more: int) -> None:
        if self.total + more <= 32:
            self.map.grow(self.total + more)
            self.free |= set(range(self.total, self.total + more)) - self.bad
            self.total += more

    @rule(less=st.integers(0, 6))
    def shrink(self, less: int) -> None:
        total = max(0, self.total - less)
        used = {block for file in self.files for piece in file for block in range(piece.start, piece.end)}
        if any(block >= total for block in used):
            with pytest.raises(BusyFsError):
                self.map.shrink(total)
            return
        self.map.shrink(total)
        self.total = total
        self.free = {block for block in self.free if block < total}

    @invariant()
    def free_runs_are_canonical_and_blocks_are_conserved(self) -> None:
        assert [(run.start, run.count) for run in self.map.free_extents()] == runs_of(self.free)
        figures = self.map
        used = sum(piece.count for file in self.files for piece in file)
        assert (figures.free_blocks, figures.used_blocks) == (len(self.free), used)
        assert figures.free_blocks + figures.used_blocks + figures.withheld_blocks == self.total
        assert figures.largest_run_blocks == max((n for _, n in runs_of(self.free)), default=0)
        assert 0 <= figures.fragmentation < 1

    @invariant()
    def metadata_gives_the_same_map_back(self) -> None:
        again = FreeMap(
            self.total,
            used=[piece for file in self.files for piece in file],
            quarantined=[BlockNumber(block) for block in self.bad],
        )
        assert again.free_extents() == self.map.free_extents()
        assert (again.used_blocks, again.withheld_blocks) == (self.map.used_blocks, self.map.withheld_blocks)


TestAgainstSets = AgainstSets.TestCase
TestAgainstSets.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


@given(st.lists(st.integers(1, 9), max_size=20), st.integers(1, 60))
def test_the_same_calls_give_the_same_extents(counts: list[int], wanted: int) -> None:
    def play() -> tuple[Extent, ...] | None:
        blocks = FreeMap(200)
        files = [blocks.allocate(count) for count in counts]
        for file in files[::2]:
            blocks.free(file)
        return blocks.allocate(wanted) if wanted <= blocks.free_blocks else None

    assert play() == play()


def test_a_request_in_pieces_looks_at_no_more_runs_than_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = FreeMap(20_000, used=[extent(start, 1) for start in range(0, 20_000, 2)])
    looked_at: list[tuple[int, int]] = []
    longest_first = blocks._runs.longest_first

    def watched() -> Iterator[tuple[int, int]]:
        for run in longest_first():
            looked_at.append(run)
            yield run

    monkeypatch.setattr(blocks._runs, "longest_first", watched)
    assert len(blocks.allocate(3)) == 3
    assert len(looked_at) == 3
