"""What must be true of a State: the invariants, checked from scratch.

`problems(state)` looks at the inode table and the namespace only; comparing them with the region is
fsck's part (region inventory against this). Used by fsck, by the model tests after every step, and
by tests of replay.
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from guestmemfs_fuse.core.state import Inode, State
from guestmemfs_fuse.core.types import ROOT_INO, Ino, blocks_of


@dataclass(frozen=True, slots=True)
class Problem:
    """One broken invariant: `kind` is stable (fsck's JSON), `detail` is a sentence."""

    kind: str
    ino: Ino
    detail: str


def problems(state: State) -> Iterator[Problem]:
    """Every broken invariant of the inode table, the namespace and the extents."""
    if ROOT_INO not in state.inodes or state.inodes[ROOT_INO].directory is None:
        yield Problem("no-root", ROOT_INO, "the root directory is missing")
        return
    names, subdirectories = Counter[Ino](), Counter[Ino]()
    for inode in state.inodes.values():
        yield from _entries(state, inode, names, subdirectories)
    for inode in state.inodes.values():
        yield from _links(state, inode, names[inode.ino], subdirectories[inode.ino])
    yield from _unreachable(state)
    yield from _usage(state)
    yield from _extents(state)


def _entries(
    state: State, inode: Inode, names: Counter[Ino], subdirectories: Counter[Ino]
) -> Iterator[Problem]:
    if inode.ino >= state.next_ino:
        yield Problem("number-reused", inode.ino, f"number {inode.ino} would be given out again")
    if inode.directory is None:
        return
    for name, ino in inode.directory.items():
        child = state.inodes.get(ino)
        if child is None:
            yield Problem("dangling-entry", inode.ino, f"entry {name!r} leads to missing inode {ino}")
            continue
        names[ino] += 1
        if child.directory is not None:
            subdirectories[inode.ino] += 1
            if child.directory.parent != inode.ino:
                yield Problem("wrong-parent", ino, f"its parent is {inode.ino}, it says otherwise")


def _links(state: State, inode: Inode, names: int, subdirectories: int) -> Iterator[Problem]:
    if inode.directory is None:
        expected = names
    elif inode.ino == ROOT_INO or names:
        expected = 2 + subdirectories
    else:
        expected = 0
    if inode.directory is not None and names > 1:
        yield Problem("directory-linked-twice", inode.ino, f"a directory with {names} names")
    if inode.nlink != expected:
        yield Problem("wrong-nlink", inode.ino, f"link count {inode.nlink}, should be {expected}")
    if (inode.nlink == 0) != (inode.ino in state.orphans):
        yield Problem("wrong-orphan", inode.ino, "the orphan list and the link count disagree")
    if stat.S_ISDIR(inode.mode) != inode.is_dir:
        yield Problem("wrong-type", inode.ino, f"its mode {inode.mode:#o} and its content disagree")
    if inode.size_bytes < 0 or inode.prealloc_bytes < 0:
        yield Problem("wrong-size", inode.ino, "a negative size")


def _unreachable(state: State) -> Iterator[Problem]:
    """Inodes with names that no path from the root reaches (directories in a ring, or below an orphan)."""
    seen, queue = {ROOT_INO}, [ROOT_INO]
    while queue:
        directory = state.inodes[queue.pop()].directory
        for _, ino in directory.items() if directory is not None else ():
            if ino in state.inodes and ino not in seen:
                seen.add(ino)
                if state.inodes[ino].is_dir:
                    queue.append(ino)
    for ino, inode in state.inodes.items():
        if ino not in seen and ino not in state.orphans:
            yield Problem("unreachable", ino, f"inode {ino} has {inode.nlink} links but no path leads to it")


def _usage(state: State) -> Iterator[Problem]:
    files, xattr_bytes = Counter[int](), Counter[int]()
    for inode in state.inodes.values():
        files[inode.uid] += 1
        xattr_bytes[inode.uid] += inode.xattr_bytes
    for uid in files.keys() | state.usage.keys():
        owned = state.usage.get(uid)
        counted = (owned.files, owned.xattr_bytes) if owned else (0, 0)
        if counted != (files[uid], xattr_bytes[uid]):
            yield Problem(
                "wrong-usage", ROOT_INO, f"user {uid} is charged {counted}, owns {files[uid]} files"
            )


def _extents(state: State) -> Iterator[Problem]:
    if state.free is None:
        return
    owners: list[tuple[int, int, Ino]] = []
    for inode in state.inodes.values():
        reach_bytes = max(inode.size_bytes, inode.prealloc_bytes)
        if inode.is_file and inode.block_count < blocks_of(reach_bytes, state.block_bytes):
            yield Problem(
                "size-beyond-blocks", inode.ino, f"{inode.block_count} blocks for {reach_bytes} bytes"
            )
        owners += [(extent.start, extent.end, inode.ino) for extent in inode.extents]
    owners.sort()
    total = state.region_bytes // state.block_bytes
    for (_, end, first), (start, _, second) in pairwise(owners):
        if start < end:
            yield Problem("overlap", second, f"inodes {first} and {second} share block {start}")
    for start, end, ino in owners:
        if start < 0 or end > total:
            yield Problem("outside-region", ino, f"blocks {start}..{end} of {total}")
    used = sum(end - start for start, end, _ in owners)
    if used != state.free.used_blocks:
        yield Problem("leaked-blocks", ROOT_INO, f"{state.free.used_blocks} blocks used, files have {used}")
