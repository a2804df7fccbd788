"""Every regular file with a path that leads to it: what `status` and the picture of the region go through.

Of a served instance the list is gathered in slices, so that callers are answered in between, and files may
come, go and move meanwhile. A file that is there all the time is listed once, with a path it had; the path
of one that is moved may be the old or the new one. Inodes are listed as they are, not copied: what is read
of them later may be of a later moment.

Directories can be nested without an end, so a path that is longer than a call takes (PATH_MAX) is listed by
its end, behind an ellipsis: else a hundred files at the bottom are some 100 MB of text.

Called by control/handlers and, for stopped instances, by cli/offline.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from heapq import merge
from itertools import islice
from operator import itemgetter
from typing import Final

import trio

from guestmemfs_fuse.core.errors import GuestmemfsError
from guestmemfs_fuse.core.state import Inode, State
from guestmemfs_fuse.core.types import ROOT_INO, Ino
from guestmemfs_fuse.engine.ledger import Ledger

Listing = list[tuple[str, Inode]]

_SLICE: Final = 250
"""Entries looked at in one go: a fraction of a millisecond."""
_SORTED_AT_ONCE: Final = 2000
_LONGEST: Final = 4096
"""PATH_MAX (uapi/linux/limits.h), in characters."""
_CUT: Final = "\u2026"
_MOST_OF_ALL: Final = 64 << 20
"""No reply is longer (control/protocol.MAX_REPLY_BYTES)."""
_WALKS: Final = 2
_path_of = itemgetter(0)


def listing(state: State) -> Listing:
    """Every file by its path, then orphans that are still in use, with an empty path. For a state at rest."""
    found = [each for batch in _walk(state, set()) for each in batch]
    return in_order(found) + _orphans(state)


async def gathered(ledger: Ledger) -> Listing:
    """As `listing`, while the state changes, and in no order (`in_order`). Returns to the loop often.

    Raises GuestmemfsError when the paths are more than any reply holds, before they take more memory.
    """
    state, seen = ledger.state, set[Ino]()
    found: Listing = []
    characters = 0
    for _ in range(_WALKS):
        committed = ledger.committed
        for batch in _walk(state, seen):
            found += batch
            characters += sum(len(path) for path, _ in batch)
            if characters > _MOST_OF_ALL:
                raise GuestmemfsError(
                    f"the paths of all files take more than {_MOST_OF_ALL >> 20} MiB",
                    hint="`guestmemfs map PATH` shows a single file, `guestmemfs list` the instance",
                )
            await trio.lowlevel.checkpoint()
        if ledger.committed == committed:
            break
        # Once more: a file that was moved from where we had not been to where we had been was missed.
    return found + [each for each in _orphans(state) if each[1].ino not in seen]


def in_order(listed: Listing) -> Listing:
    """By path, those without one last. In pieces: a long sort would keep every other thread from running."""
    named: Listing = []
    nameless: Listing = []
    for each in listed:
        (named if each[0] else nameless).append(each)
    starts = range(0, len(named), _SORTED_AT_ONCE)
    runs = (sorted(named[at : at + _SORTED_AT_ONCE], key=_path_of) for at in starts)
    return [*merge(*runs, key=_path_of), *nameless]


def _walk(state: State, seen: set[Ino]) -> Iterator[Listing]:
    """Files that are not in `seen`, and are then; the state may change between two batches."""
    queue: list[tuple[str, Ino]] = [("", ROOT_INO)]
    been: set[Ino] = set()
    while queue:
        prefix, ino = queue.pop()
        inode = state.inodes.get(ino)
        if inode is None or inode.directory is None or ino in been:
            continue
        been.add(ino)
        entries = inode.directory.after(0)
        while batch := list(islice(entries, _SLICE)):
            found: Listing = []
            for _cookie, name, child_ino in batch:
                child = state.inodes[child_ino]
                path = f"{prefix}/{os.fsdecode(name)}"
                if len(path) > _LONGEST:
                    path = f"{_CUT}/{os.fsdecode(name)}"
                if child.is_dir:
                    queue.append((path, child_ino))
                elif child.is_file and child_ino not in seen:
                    seen.add(child_ino)
                    found.append((path, child))
            yield found


def _orphans(state: State) -> Listing:
    inodes = (state.inodes.get(ino) for ino in sorted(state.orphans))
    return [("", inode) for inode in inodes if inode is not None and inode.is_file]
