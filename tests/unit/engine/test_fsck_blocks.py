"""fsck of a region whose files are extents of one file: blocks claimed twice, outside, missing, leaked."""

from __future__ import annotations

from pathlib import Path

import pytest

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.check import problems
from guestmemfs_fuse.core.decide import decide
from guestmemfs_fuse.core.evolve import apply
from guestmemfs_fuse.core.records import Transaction
from guestmemfs_fuse.core.state import State, new_state
from guestmemfs_fuse.core.types import ROOT_INO, BlockNumber, Extent, Ino
from guestmemfs_fuse.engine import fsck_blocks, fsck_offline
from guestmemfs_fuse.metadata import store
from guestmemfs_fuse.metadata.store import Store
from guestmemfs_fuse.region.hugetlb import HugetlbRegion
from tests.unit.engine.fsck_rig import REGION, lookup
from tests.unit.metadata.memory_files import MemoryFiles

BLOCK = 4096
BLOCKS = 16
A, B = Ino(2), Ino(3)


def extent(start: int, count: int) -> Extent:
    return Extent(BlockNumber(start), count)


def two_files() -> State:
    """/a has blocks 0..2, /b blocks 3..4."""
    state = new_state(region_bytes=BLOCKS * BLOCK, block_bytes=BLOCK, now_ns=1, extents=True)
    for name, ino, blocks in ((b"a", A, 3), (b"b", B, 2)):
        for command in (cmd.Make(ROOT_INO, name, 0o100600, 0, 0), cmd.Resize(ino, blocks * BLOCK)):
            apply(state, Transaction(decide(command, state, 1)))
    return state


def kinds(state: State) -> set[str]:
    return {problem.kind for problem in problems(state)}


def test_a_block_of_two_files_becomes_two_blocks_with_the_same_bytes() -> None:
    state = two_files()
    state.inodes[B].extents = (extent(2, 2),)
    assert "overlap" in kinds(state)
    (copy,) = fsck_blocks.mend(state)
    assert copy.source == 2
    assert kinds(state) == set()
    assert state.inodes[A].extents == (extent(0, 3),)
    assert state.inodes[B].extents == (extent(copy.target, 1), extent(3, 1)), "the order is the file's"


def test_a_block_outside_the_region_becomes_an_empty_one_at_its_place() -> None:
    state = two_files()
    state.inodes[A].extents = (extent(0, 1), extent(BLOCKS + 3, 1), extent(2, 1))
    assert "outside-region" in kinds(state)
    (copy,) = fsck_blocks.mend(state)
    assert copy.source is None
    blocks = [block for each in state.inodes[A].extents for block in range(each.start, each.end)]
    assert blocks == [0, copy.target, 2]
    assert kinds(state) == set()


def test_a_size_beyond_the_blocks_gets_blocks_or_ends_with_them() -> None:
    state = two_files()
    state.inodes[A].size_bytes = 5 * BLOCK
    assert "size-beyond-blocks" in kinds(state)
    fsck_blocks.mend(state)
    assert (state.inodes[A].block_count, state.inodes[A].size_bytes) == (5, 5 * BLOCK)
    state.inodes[B].size_bytes = 100 * BLOCK
    fsck_blocks.mend(state)
    assert state.inodes[B].size_bytes == state.inodes[B].block_count * BLOCK
    assert kinds(state) == set()


def test_leaked_blocks_are_free_again() -> None:
    state = two_files()
    assert state.free is not None
    state.free.take((extent(10, 4),))
    assert "leaked-blocks" in kinds(state)
    assert fsck_blocks.mend(state) == []
    assert kinds(state) == set()
    assert state.free.free_blocks == BLOCKS - 5


def test_without_room_for_copies_nothing_is_taken_from_anybody() -> None:
    state = two_files()
    apply(state, Transaction(decide(cmd.Resize(A, (BLOCKS - 2) * BLOCK), state, 1)))
    held = state.inodes[A].extents
    state.inodes[B].extents = (extent(0, 2),)
    state.inodes[A].extents = (extent(0, BLOCKS),)
    fsck_blocks.mend(state)
    assert "overlap" in kinds(state)
    assert state.inodes[A].extents == (extent(0, BLOCKS),)
    assert held


def test_quarantined_blocks_are_not_given_to_anybody() -> None:
    state = two_files()
    apply(state, Transaction(decide(cmd.Quarantine((extent(5, 10),)), state, 1)))
    state.inodes[B].extents = (extent(2, 2),)
    (copy,) = fsck_blocks.mend(state)
    assert copy.target == 15 or copy.target == 4
    assert kinds(state) == set()


@pytest.fixture
def region(tmp_path: Path) -> HugetlbRegion:
    """The hugetlb kind over an ordinary file."""
    return HugetlbRegion(str(tmp_path), str(tmp_path), BLOCKS * BLOCK, BLOCK)


def fill(region: HugetlbRegion) -> None:
    Path(region.path).write_bytes(b"".join(bytes([65 + block]) * BLOCK for block in range(BLOCKS)))


def content(region: HugetlbRegion, state: State, ino: Ino) -> bytes:
    data = Path(region.path).read_bytes()
    return b"".join(
        data[block * BLOCK :][:1]
        for each in state.inodes[ino].extents
        for block in range(each.start, each.end)
    )


def test_an_overlap_on_disk_is_found_and_mended_with_its_bytes(region: HugetlbRegion) -> None:
    fill(region)
    state, files = two_files(), MemoryFiles()
    state.inodes[B].extents = (extent(2, 2),)
    Store.create(files, REGION, state).close()
    found = fsck_offline.check(files, REGION, region, repair=False)
    assert {"overlap"} <= {finding.kind for finding in found.findings}
    result = fsck_offline.check(files, REGION, region, repair=True)
    assert result.unrepaired == ()
    mended = store.read_only_view(files, REGION).state
    assert (content(region, mended, A), content(region, mended, B)) == (b"ABC", b"CD")
    region.close()


def test_after_falling_back_every_free_block_is_kept_in_one_file(region: HugetlbRegion) -> None:
    """What files of the lost part had cannot be known, and a daemon would punch free blocks out."""
    fill(region)
    files = MemoryFiles()
    state = new_state(region_bytes=BLOCKS * BLOCK, block_bytes=BLOCK, now_ns=1, extents=True)
    made = Store.create(files, REGION, state)
    for name, ino in ((b"a", A), (b"b", B)):
        for command in (cmd.Make(ROOT_INO, name, 0o100600, 0, 0), cmd.Resize(ino, 2 * BLOCK)):
            transaction = Transaction(decide(command, state, 1))
            made.append(transaction)
            apply(state, transaction)
        made.rotate()
    second = files.names()[1]
    data = bytearray(files.read(second))
    data[70] ^= 1
    files.put(second, bytes(data))
    result = fsck_offline.check(files, REGION, region, repair=True)
    assert result.unrepaired == ()
    saved = store.read_only_view(files, REGION).state
    assert saved.free is not None
    assert saved.free.free_blocks == 0
    assert content(region, saved, A) == b"AB"
    assert lookup(saved, b"b") is None, "the record with its name is the damaged one"
    assert lookup(saved, b"lost+found", b"#%d" % B) == B
    assert content(region, saved, B) == b"CD"
    kept = max(saved.inodes)
    assert lookup(saved, b"lost+found", b"#%d" % kept) == kept
    assert content(region, saved, kept) == b"EFGHIJKLMNOP"
    region.close()
