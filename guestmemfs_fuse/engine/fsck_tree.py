"""Mend a State in itself: names, link counts, parents, what no path leads to. Pure.

Works on a state nobody serves (offline), changing it directly: what is wrong here is exactly what decide
would never have written. Nothing that has data is dropped: an inode without a name gets one in /lost+found.

Afterwards core/check finds nothing but extents (fsck_blocks). Called by fsck_offline.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from typing import Final

from guestmemfs_fuse.core import evolve
from guestmemfs_fuse.core import records as rec
from guestmemfs_fuse.core.directory import Directory
from guestmemfs_fuse.core.state import Inode, State
from guestmemfs_fuse.core.types import ROOT_INO, Ino
from guestmemfs_fuse.engine.fsck import possible_name

LOST_AND_FOUND: Final = b"lost+found"


def mend(state: State, now_ns: int) -> None:
    """Make names, types, link counts, parents, orphans and usage of `state` agree."""
    count_up(state)
    _ensure_root(state, now_ns)
    _agree_on_types(state)
    _one_entry_per_name(state)
    _mend_entries(state)
    _one_name_per_directory(state)
    _reconnect(state, now_ns)
    _recount(state)


def adopt(state: State, ino: Ino, size_bytes: int, allocated_bytes: int, now_ns: int) -> None:
    """Make the inode of a backing that has none; `mend` finds its old names, or one in /lost+found."""
    evolve.evolve(rec.Made(ROOT_INO, b"", ino, stat.S_IFREG | 0o600, 0, 0, 0, b"", now_ns), state)
    evolve.evolve(rec.Resized(ino, size_bytes, max(size_bytes, allocated_bytes), now_ns), state)
    state.inodes[ino].nlink = 1
    state.orphans.discard(ino)


def count_up(state: State, *further: Ino) -> None:
    """No number that is in use, or in `further`, is given out again."""
    state.next_ino = Ino(max([state.next_ino, *(ino + 1 for ino in (*state.inodes, *further))]))


def free_name(directory: Directory, wanted: bytes) -> bytes:
    """`wanted`, or that with the first number behind it that is free."""
    name, number = wanted, 0
    while directory.get(name) is not None:
        number += 1
        name = wanted + b".%d" % number
    return name


def lost_and_found(state: State, now_ns: int) -> tuple[rec.Record, ...]:
    """What makes /lost+found, nothing when it is there. `place_of_the_lost` finds it afterwards."""
    if place_of_the_lost(state) is not None:
        return ()
    assert state.root.directory is not None
    name = free_name(state.root.directory, LOST_AND_FOUND)
    return (rec.Made(ROOT_INO, name, state.next_ino, stat.S_IFDIR | 0o700, 0, 0, 0, b"", now_ns),)


def place_of_the_lost(state: State) -> Ino | None:
    """The directory /lost+found (or, where a file has that name, /lost+found.1 and so on)."""
    root, name, number = state.root.directory, LOST_AND_FOUND, 0
    assert root is not None
    while (ino := root.get(name)) is not None:
        if ino in state.inodes and state.inodes[ino].is_dir:
            return ino
        number += 1
        name = LOST_AND_FOUND + b".%d" % number
    return None


def _ensure_root(state: State, now_ns: int) -> None:
    root = state.inodes.get(ROOT_INO)
    if root is None:
        root = Inode(ROOT_INO, stat.S_IFDIR | 0o755, 0, 0, 2, now_ns, now_ns, now_ns)
        state.inodes[ROOT_INO] = root
    if root.directory is None:
        root.mode = stat.S_IFDIR | stat.S_IMODE(root.mode)
        root.directory = Directory(ROOT_INO)


def _agree_on_types(state: State) -> None:
    """Entries cannot be made up, so who has them is a directory."""
    for inode in state.inodes.values():
        if inode.directory is not None:
            inode.mode = stat.S_IFDIR | stat.S_IMODE(inode.mode)
        elif stat.S_ISDIR(inode.mode):
            inode.directory = Directory(ROOT_INO)


def _entries(state: State) -> Iterator[tuple[Inode, Directory, bytes, Ino]]:
    """Every entry, from a copy: the directories may be changed meanwhile."""
    for inode in list(state.inodes.values()):
        if inode.directory is not None:
            for name, ino in list(inode.directory.items()):
                yield inode, inode.directory, name, ino


def _one_entry_per_name(state: State) -> None:
    """Records that were not decided on this state can enter a name twice; only one of them can be found."""
    for inode in state.inodes.values():
        directory = inode.directory
        if directory is None or len(entries := list(directory.items())) == len(directory):
            continue
        inode.directory = fresh = Directory(directory.parent, directory.next_cookie)
        for name, ino in entries:
            fresh.add(name if fresh.get(name) is None else free_name(fresh, b"#%d" % ino), ino)


def _mend_entries(state: State) -> None:
    for _, directory, name, ino in _entries(state):
        if ino not in state.inodes or ino == ROOT_INO:
            directory.remove(name)
        elif not possible_name(name):
            directory.remove(name)
            directory.add(free_name(directory, b"#%d" % ino), ino)


def _one_name_per_directory(state: State) -> None:
    """The name where the directory itself says it is stays, else the first."""
    kept: dict[Ino, tuple[Directory, bytes, bool]] = {}
    for parent, directory, name, ino in _entries(state):
        child = state.inodes[ino].directory
        if child is None:
            continue
        agrees = child.parent == parent.ino
        before = kept.get(ino)
        if before is None:
            kept[ino] = (directory, name, agrees)
        elif agrees and not before[2]:
            before[0].remove(before[1])
            kept[ino] = (directory, name, True)
        else:
            directory.remove(name)


def _reconnect(state: State, now_ns: int) -> None:
    """Give every inode that no path leads to a name in /lost+found, unless it is an orphan by right."""
    while lost := _lost(state):
        named = {ino for _, _, _, ino in _entries(state)}
        heads = [ino for ino in lost if ino not in named]
        if not heads:
            heads = lost[:1]  # directories in a ring: cut it here
            _remove_names(state, heads[0])
        for record in lost_and_found(state, now_ns):
            evolve.evolve(record, state)
        place = place_of_the_lost(state)
        assert place is not None
        directory = state.inodes[place].directory
        assert directory is not None
        for ino in heads:
            directory.add(free_name(directory, b"#%d" % ino), ino)


def _lost(state: State) -> list[Ino]:
    reached, queue = {ROOT_INO}, [ROOT_INO]
    while queue:
        directory = state.inodes[queue.pop()].directory
        for _, ino in directory.items() if directory is not None else ():
            if ino not in reached:
                reached.add(ino)
                queue.append(ino)
    named = {ino for _, _, _, ino in _entries(state)}
    return [
        ino
        for ino, inode in sorted(state.inodes.items())
        if ino not in reached and not (ino not in named and _is_orphan(inode))
    ]


def _is_orphan(inode: Inode) -> bool:
    return inode.nlink == 0 and not inode.directory


def _remove_names(state: State, ino: Ino) -> None:
    for _, directory, name, found in _entries(state):
        if found == ino:
            directory.remove(name)


def _recount(state: State) -> None:
    """Link counts, parents, orphans and usage from the tree alone."""
    names = dict.fromkeys(state.inodes, 0)
    subdirectories = dict.fromkeys(state.inodes, 0)
    for parent, _, _, ino in _entries(state):
        names[ino] += 1
        child = state.inodes[ino].directory
        if child is not None:
            child.parent = parent.ino
            subdirectories[parent.ino] += 1
    state.orphans.clear()
    state.usage.clear()
    for ino, inode in state.inodes.items():
        has_place = names[ino] or ino == ROOT_INO
        inode.nlink = names[ino] if inode.directory is None else (2 + subdirectories[ino]) * bool(has_place)
        if inode.nlink == 0:
            state.orphans.add(ino)
        owner = state.user(inode.uid)
        owner.files += 1
        owner.xattr_bytes += inode.xattr_bytes
    root = state.root.directory
    assert root is not None
    root.parent = ROOT_INO
    count_up(state)
