"""The free blocks of a region whose files are lists of extents (the hugetlb kind).

Owns nothing but numbers: which blocks are free, in runs, indexed by position and by length, so that
every operation is O(log n) in the number of free runs. Memory is never touched here.

Invariants: free runs never overlap, never touch each other (always coalesced) and never contain a
quarantined block; free + used + withheld blocks are the total. The same calls in the same order give
the same extents, on every machine: journal replay depends on it.

Called by core's decide (find) and evolve (take, free), and by fsck.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sortedcontainers import SortedDict, SortedList, SortedSet

from guestmemfs_fuse.core.errors import BusyFsError, RegionFullError
from guestmemfs_fuse.core.types import BlockNumber, Extent


class _Runs:
    """Free runs, indexed by start and by (length, -start): backwards, that is longest and lowest first."""

    def __init__(self, runs: Iterable[tuple[int, int]] = ()) -> None:
        """runs: (start, count) of the runs there are; sorting them all at once is ten times as fast."""
        self.by_start: SortedDict[int, int] = SortedDict(runs)
        self.by_length: SortedList[tuple[int, int]] = SortedList(
            (count, -start) for start, count in self.by_start.items()
        )
        self.blocks: int = sum(self.by_start.values())

    def add(self, start: int, count: int) -> None:
        self.by_start[start] = count
        self.by_length.add((count, -start))
        self.blocks += count

    def remove(self, start: int) -> int:
        count: int = self.by_start.pop(start)
        self.by_length.remove((count, -start))
        self.blocks -= count
        return count

    def last_starting_by(self, block: int) -> tuple[int, int] | None:
        """The run with the highest start <= block, as (start, count)."""
        index = self.by_start.bisect_right(block) - 1
        return self.by_start.peekitem(index) if index >= 0 else None

    def best_fit(self, count: int) -> int | None:
        """Start of the shortest run that is long enough, the lowest of those."""
        index = self.by_length.bisect_right((count - 1, 0))
        if index == len(self.by_length):
            return None
        length = self.by_length[index][0]
        lowest: int = -self.by_length[self.by_length.bisect_right((length, 0)) - 1][1]
        return lowest

    def longest_first(self) -> Iterator[tuple[int, int]]:
        """(start, count) of every run, lazily; of equally long ones the lowest first."""
        return ((-negative, count) for count, negative in reversed(self.by_length))


class FreeMap:
    """Hands out blocks, takes them back, and keeps bad ones out of circulation.

    total_blocks: size of the region; used: extents that files hold (must not overlap);
    quarantined: blocks with memory errors, used or not. Raises ValueError when extents overlap or
    leave the region: the caller (fsck, the store) says which file it was.
    """

    def __init__(
        self,
        total_blocks: int,
        used: Iterable[Extent] = (),
        quarantined: Iterable[BlockNumber] = (),
    ) -> None:
        if total_blocks < 0:
            raise ValueError(f"a region cannot have {total_blocks} blocks")
        self._total = 0
        self._runs = _Runs()
        self._quarantined: SortedSet[int] = SortedSet(quarantined)
        self._withheld: SortedSet[int] = SortedSet()
        self.grow(total_blocks)
        self._take_all(used)

    # -- figures -------------------------------------------------------------------------------------

    @property
    def total_blocks(self) -> int:
        """Size of the region in blocks."""
        return self._total

    @property
    def free_blocks(self) -> int:
        """Blocks that could be handed out now."""
        return self._runs.blocks

    @property
    def used_blocks(self) -> int:
        """Blocks that files hold, quarantined ones among them included."""
        return self._total - self._runs.blocks - self.withheld_blocks

    @property
    def withheld_blocks(self) -> int:
        """Quarantined blocks that no file holds."""
        return len(self._withheld)

    @property
    def largest_run_blocks(self) -> int:
        """Length of the longest free run: what the next file can have in one piece."""
        return self._runs.by_length[-1][0] if self._runs.by_length else 0

    @property
    def fragment_count(self) -> int:
        """Number of free runs."""
        return len(self._runs.by_start)

    @property
    def fragmentation(self) -> float:
        """The share of the free blocks outside the longest run: 0.0 (also when nothing is free) to < 1."""
        return 1 - self.largest_run_blocks / self.free_blocks if self.free_blocks else 0.0

    @property
    def quarantined(self) -> tuple[BlockNumber, ...]:
        """All quarantined blocks, ascending, files' own included."""
        return tuple(self._quarantined)

    def free_extents(self) -> tuple[Extent, ...]:
        """The free runs, ascending."""
        return tuple(Extent(BlockNumber(start), count) for start, count in self._runs.by_start.items())

    # -- handing out ---------------------------------------------------------------------------------

    def find(self, count: int, *, after: BlockNumber | None = None) -> tuple[Extent, ...]:
        """Choose `count` free blocks and change nothing.

        after: the end of the file's last extent; a free run that starts there and is long enough is
        preferred, so that a file which grows stays in one piece. Otherwise the best fitting run;
        otherwise the longest runs, which is the fewest pieces. Raises RegionFullError.
        """
        if count < 0:
            raise ValueError(f"cannot allocate {count} blocks")
        if count == 0:
            return ()
        if count > self.free_blocks:
            raise RegionFullError(f"{count} blocks wanted, {self.free_blocks} free")
        if after is not None and self._runs.by_start.get(after, 0) >= count:
            return (Extent(after, count),)
        fit = self._runs.best_fit(count)
        if fit is not None:
            return (Extent(BlockNumber(fit), count),)
        return self._find_pieces(count)

    def allocate(self, count: int, *, after: BlockNumber | None = None) -> tuple[Extent, ...]:
        """As `find`, and takes what it found. Raises RegionFullError and then changes nothing."""
        found = self.find(count, after=after)
        self.take(found)
        return found

    def _find_pieces(self, count: int) -> tuple[Extent, ...]:
        """No run is long enough: whole runs, longest first, and the best fit for what is left."""
        pieces: list[Extent] = []
        chosen: set[int] = set()
        for start, length in self._runs.longest_first():
            if length >= count:
                # The rest fits into one run. The best fit may be chosen already (then it is as long
                # as this one, for none shorter will do); this one is not.
                fit = self._runs.best_fit(count)
                last = start if fit is None or fit in chosen else fit
                pieces.append(Extent(BlockNumber(last), count))
                break
            pieces.append(Extent(BlockNumber(start), length))
            chosen.add(start)
            count -= length
        return tuple(pieces)

    def take(self, extents: Iterable[Extent]) -> None:
        """Mark blocks used. Quarantined ones may be among them (a file that holds a bad page).

        Raises ValueError when a block is used already or outside; extents before that one stay taken.
        """
        for extent in extents:
            self._check_inside(extent)
            withheld = list(self._withheld.irange(extent.start, extent.end, (True, False)))
            for piece in self._without(extent, withheld):
                self._check_free(piece)
            for piece in self._without(extent, withheld):
                self._carve(piece)
            self._withheld.difference_update(withheld)

    def _take_all(self, extents: Iterable[Extent]) -> None:
        """As `take`, in one pass, for a map of which nothing is used yet (loading 100,000 files)."""
        ordered = sorted(extents, key=lambda extent: extent.start)
        if not ordered:
            return
        gaps = list(self._gaps_between(ordered))
        for extent in ordered if self._withheld else ():
            used = list(self._withheld.irange(extent.start, extent.end, (True, False)))
            self._withheld.difference_update(used)
        self._runs = _Runs((piece.start, piece.count) for gap in gaps for piece in self._good_parts(gap))

    def _good_parts(self, gap: Extent) -> Iterator[Extent]:
        """What of a run without files may be handed out."""
        if not self._withheld:
            return iter((gap,))
        return self._without(gap, list(self._withheld.irange(gap.start, gap.end, (True, False))))

    def _gaps_between(self, ordered: Iterable[Extent]) -> Iterator[Extent]:
        """The blocks that extents (ascending) leave out; ValueError when they overlap or leave the region."""
        at = 0
        for extent in ordered:
            start, end = extent.start, extent.start + extent.count
            if start < at or end <= start or end > self._total:
                self._check_inside(extent)
                raise ValueError(f"{extent} is in use already")
            if start > at:
                yield Extent(BlockNumber(at), start - at)
            at = end
        if at < self._total:
            yield Extent(BlockNumber(at), self._total - at)

    def free(self, extents: Iterable[Extent]) -> None:
        """Give blocks back; quarantined ones are withheld instead.

        Raises ValueError when a block is free or withheld already, or outside; extents before that
        one stay freed.
        """
        for extent in extents:
            self._check_inside(extent)
            if self._touches_free(extent) or any(
                True for _ in self._withheld.irange(extent.start, extent.end, (True, False))
            ):
                raise ValueError(f"{extent} is not in use")
            bad = list(self._quarantined.irange(extent.start, extent.end, (True, False)))
            for piece in self._without(extent, bad):
                self._coalesce(piece)
            self._withheld.update(bad)

    # -- memory errors and resizing --------------------------------------------------------------------

    def quarantine(self, block: BlockNumber) -> None:
        """Never hand this block out again; a file that holds it keeps it until it is freed."""
        if block in self._quarantined:
            return
        extent = Extent(block, 1)
        if block < self._total and self._touches_free(extent):
            self._carve(extent)
            self._withheld.add(block)
        self._quarantined.add(block)

    def grow(self, total_blocks: int) -> None:
        """The region is now `total_blocks` long (not less than before); the new blocks are free."""
        if total_blocks < self._total:
            raise ValueError(f"grow from {self._total} to {total_blocks} blocks")
        added = Extent(BlockNumber(self._total), total_blocks - self._total)
        self._total = total_blocks
        bad = list(self._quarantined.irange(added.start, added.end, (True, False)))
        for piece in self._without(added, bad):
            self._coalesce(piece)
        self._withheld.update(bad)

    def shrink(self, total_blocks: int) -> None:
        """The region is now `total_blocks` long (not more than before).

        Raises BusyFsError, and changes nothing, when a block behind the new end is used. Quarantined
        blocks behind it stay remembered, should the region grow again.
        """
        if not 0 <= total_blocks <= self._total:
            raise ValueError(f"shrink from {self._total} to {total_blocks} blocks")
        tail = Extent(BlockNumber(total_blocks), self._total - total_blocks)
        withheld = list(self._withheld.irange(tail.start, tail.end, (True, False)))
        pieces = list(self._without(tail, withheld))
        if any(not self._is_free(piece) for piece in pieces):
            raise BusyFsError(f"blocks from {total_blocks} on are in use")
        for piece in pieces:
            self._carve(piece)
        self._withheld.difference_update(withheld)
        self._total = total_blocks

    # -- runs ------------------------------------------------------------------------------------------

    def _check_inside(self, extent: Extent) -> None:
        if extent.start < 0 or extent.count <= 0 or extent.end > self._total:
            raise ValueError(f"{extent} is not inside a region of {self._total} blocks")

    def _check_free(self, extent: Extent) -> None:
        if not self._is_free(extent):
            raise ValueError(f"{extent} is in use already")

    def _is_free(self, extent: Extent) -> bool:
        run = self._runs.last_starting_by(extent.start)
        return run is not None and run[0] + run[1] >= extent.end

    def _touches_free(self, extent: Extent) -> bool:
        run = self._runs.last_starting_by(extent.end - 1)
        return run is not None and run[0] + run[1] > extent.start

    @staticmethod
    def _without(extent: Extent, holes: Iterable[int]) -> Iterator[Extent]:
        """`extent` with single blocks (ascending) cut out."""
        at = extent.start
        for hole in holes:
            if hole > at:
                yield Extent(at, hole - at)
            at = BlockNumber(hole + 1)
        if extent.end > at:
            yield Extent(at, extent.end - at)

    def _carve(self, extent: Extent) -> None:
        """Remove `extent` from the free run that contains it."""
        run = self._runs.last_starting_by(extent.start)
        assert run is not None  # callers checked that it is free
        start, count = run
        self._runs.remove(start)
        if start < extent.start:
            self._runs.add(start, extent.start - start)
        if extent.end < start + count:
            self._runs.add(extent.end, start + count - extent.end)

    def _coalesce(self, extent: Extent) -> None:
        """Add `extent` to the free runs, merged with the neighbours it touches."""
        start, end = int(extent.start), int(extent.end)
        before = self._runs.last_starting_by(start)
        if before is not None and before[0] + before[1] == start:
            start = before[0]
            self._runs.remove(start)
        if end in self._runs.by_start:
            end += self._runs.remove(end)
        self._runs.add(start, end - start)
