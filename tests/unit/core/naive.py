"""A filesystem written the naive way, from the man pages: nodes in nested dictionaries.

Nothing is counted: link counts, usage and free blocks are found by walking everything, every time. The
model tests hold core against it. A refusal is the name of the error class core must raise.
"""

from __future__ import annotations

import stat
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

BLOCK_BYTES = 1000
MAX_FILES = 6
MAX_XATTR_BYTES = 120


class Refused(Exception):
    """The call is refused; the argument is the error class's name."""


@dataclass(eq=False)
class Node:
    """One file of any type; `entries` is the directory, None for others."""

    number: int
    mode: int
    uid: int
    gid: int
    atime: int
    mtime: int
    ctime: int
    rdev: int = 0
    target: bytes = b""
    size: int = 0
    prealloc: int = 0
    pinned: bool = False
    mark: bytes = b""
    backing: int | None = None
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    entries: dict[bytes, Node] | None = None

    @property
    def kind(self) -> int:
        return stat.S_IFMT(self.mode)

    @property
    def xattr_bytes(self) -> int:
        return sum(len(name) + len(value) for name, value in self.xattrs.items())

    @property
    def blocks(self) -> int:
        if self.kind != stat.S_IFREG:
            return 0
        return -(-max(self.size, self.prealloc) // BLOCK_BYTES)


@dataclass
class Naive:
    """All of it. Nodes that lost their last name stay in `nameless` until they are reaped."""

    blocks: int | None
    root: Node = field(default_factory=lambda: Node(1, stat.S_IFDIR | 0o755, 0, 0, 0, 0, 0, entries={}))
    nameless: dict[int, Node] = field(default_factory=dict)
    next_number: int = 2
    frozen: bool = False
    bad_blocks: set[int] = field(default_factory=set)

    # -- walking ---------------------------------------------------------------------------------------

    def names(self, top: Node | None = None) -> Iterator[tuple[Node, bytes, Node]]:
        """Every name: (directory, name, what it leads to)."""
        top = top or self.root
        for name, node in (top.entries or {}).items():
            yield top, name, node
            if node.entries is not None:
                yield from self.names(node)

    def all(self) -> dict[int, Node]:
        """Every node by number."""
        named = {node.number: node for _, _, node in self.names()}
        return {1: self.root, **named, **self.nameless}

    def nlinks(self) -> dict[int, int]:
        """The link count of every node."""
        names = Counter(node.number for _, _, node in self.names())
        counts = {}
        for number, node in self.all().items():
            subdirectories = sum(1 for child in (node.entries or {}).values() if child.entries is not None)
            counts[number] = names[number] if node.entries is None else 2 + subdirectories
            if number in self.nameless:
                counts[number] = 0
        return counts

    def parents(self) -> dict[int, int]:
        """Where every directory stands."""
        return {
            1: 1,
            **{node.number: top.number for top, _, node in self.names() if node.entries is not None},
        }

    def parent_of(self, node: Node) -> Node:
        return next((top for top, _, other in self.names() if other is node), node)

    def used_blocks(self) -> int:
        return sum(node.blocks for node in self.all().values())

    def room_blocks(self, bad_in_files: int) -> int | None:
        """Blocks that can still be given out; `bad_in_files` bad ones belong to files."""
        if self.blocks is None:
            return None
        return self.blocks - self.used_blocks() - (len(self.bad_blocks) - bad_in_files)

    # -- finding or refusing ---------------------------------------------------------------------------

    def node(self, number: int) -> Node:
        found = self.all().get(number)
        if found is None:
            raise Refused("StaleInodeError")
        return found

    def directory(self, number: int) -> dict[bytes, Node]:
        entries = self.node(number).entries
        if entries is None:
            raise Refused("NotDirectoryError")
        return entries

    def existing(self, parent: int, name: bytes) -> Node:
        entries = self.directory(parent)
        if len(name) > 255:
            raise Refused("NameTooLongFsError")
        if name not in entries:
            raise Refused("NoEntryError")
        return entries[name]

    def file(self, number: int) -> Node:
        node = self.node(number)
        if node.kind == stat.S_IFDIR:
            raise Refused("IsDirectoryError")
        if node.kind != stat.S_IFREG:
            raise Refused("InvalidCallError")
        return node

    def free_name(self, parent: int, name: bytes) -> dict[bytes, Node]:
        entries = self.directory(parent)
        if len(name) > 255:
            raise Refused("NameTooLongFsError")
        if name in entries:
            raise Refused("EntryExistsError")
        if parent in self.nameless:
            raise Refused("NoEntryError")
        return entries

    def charge(self, uid: int, files: int, xattr_bytes: int) -> None:
        owned = [node for node in self.all().values() if node.uid == uid]
        if uid and files and len(owned) + files > MAX_FILES:
            raise Refused("UserLimitError")
        held = sum(node.xattr_bytes for node in owned)
        if uid and xattr_bytes > 0 and held + xattr_bytes > MAX_XATTR_BYTES:
            raise Refused("UserLimitError")

    def touch(self, number: int, now: int) -> None:
        node = self.node(number)
        node.mtime = node.ctime = now

    def removable(self, node: Node) -> None:
        if node.pinned or node.mark:
            raise Refused("BusyFsError")

    def lost_name(self, node: Node, now: int) -> None:
        """Called when a name of `node` has been taken out."""
        node.ctime = now
        if not any(other is node for _, _, other in self.names()):
            self.nameless[node.number] = node

    # -- calls -----------------------------------------------------------------------------------------

    def make(self, parent: int, name: bytes, mode: int, uid: int, gid: int, target: bytes, now: int) -> int:
        self.directory(parent)
        if name:
            self.free_name(parent, name)
        above = self.node(parent)
        self.charge(uid, 1, 0)
        if above.mode & stat.S_ISGID:
            gid = above.gid
            mode |= stat.S_ISGID if stat.S_ISDIR(mode) else 0
        node = Node(self.next_number, mode, uid, gid, now, now, now, target=target, size=len(target))
        self.next_number += 1
        if stat.S_ISDIR(mode):
            node.entries = {}
        if name:
            self.directory(parent)[name] = node
            self.touch(parent, now)
        else:
            self.nameless[node.number] = node
        return node.number

    def link(self, number: int, parent: int, name: bytes, now: int) -> None:
        node = self.node(number)
        if node.entries is not None:
            raise Refused("NotPermittedError")
        self.free_name(parent, name)[name] = node
        self.nameless.pop(number, None)
        node.ctime = now
        self.touch(parent, now)

    def unlink(self, parent: int, name: bytes, now: int) -> None:
        node = self.existing(parent, name)
        if node.entries is not None:
            raise Refused("IsDirectoryError")
        self.removable(node)
        del self.directory(parent)[name]
        self.touch(parent, now)
        self.lost_name(node, now)

    def rmdir(self, parent: int, name: bytes, now: int) -> None:
        node = self.existing(parent, name)
        if node.entries is None:
            raise Refused("NotDirectoryError")
        if node.entries:
            raise Refused("DirectoryNotEmptyError")
        del self.directory(parent)[name]
        self.touch(parent, now)
        self.lost_name(node, now)

    def rename(self, parent: int, name: bytes, to: int, new: bytes, flags: int, now: int) -> None:
        moved = self.existing(parent, name)
        target = self.directory(to).get(new)
        if to in self.nameless:
            raise Refused("NoEntryError")
        if self.inside(moved, to):
            raise Refused("InvalidCallError")
        if flags == 2:
            self.exchange(parent, name, to, new, now)
            return
        if target is not None:
            if flags == 1:
                raise Refused("EntryExistsError")
            if target is moved:
                return
            self.replaceable(moved, target)
            del self.directory(to)[new]
            self.lost_name(target, now)
        del self.directory(parent)[name]
        self.directory(to)[new] = moved
        moved.ctime = now
        self.touch(parent, now)
        self.touch(to, now)

    def exchange(self, parent: int, name: bytes, to: int, new: bytes, now: int) -> None:
        first, second = self.directory(parent)[name], self.existing(to, new)
        if self.inside(second, parent):
            raise Refused("InvalidCallError")
        if first is second:
            return
        self.directory(parent)[name] = second
        self.directory(to)[new] = first
        first.ctime = second.ctime = now
        self.touch(parent, now)
        self.touch(to, now)

    def inside(self, node: Node, number: int) -> bool:
        """Whether directory `number` is `node` or stands below it."""
        at = self.node(number)
        while at is not node:
            above = self.parent_of(at)
            if above is at:
                return False
            at = above
        return True

    def replaceable(self, moved: Node, target: Node) -> None:
        if target.entries is not None and moved.entries is None:
            raise Refused("IsDirectoryError")
        if target.entries is None and moved.entries is not None:
            raise Refused("NotDirectoryError")
        if target.entries:
            raise Refused("DirectoryNotEmptyError")
        self.removable(target)

    def set_attrs(self, number: int, mode: int | None, uid: int | None, mtime: int | None, now: int) -> None:
        node = self.node(number)
        if uid is not None and uid != node.uid:
            self.charge(uid, 1, node.xattr_bytes)
            node.uid = uid
        if mode is not None:
            node.mode = node.kind | mode
        if mtime is not None:
            node.mtime = mtime
        node.ctime = now

    def resize(self, number: int, size: int, force: bool, room: int | None, now: int) -> None:
        node = self.file(number)
        if size < node.size and not force:
            self.removable(node)
        self.reach(node, size, node.prealloc if size > node.size else 0, room, now)

    def allocate(self, number: int, end: int, keep: bool, room: int | None, now: int) -> None:
        node = self.file(number)
        if keep:
            self.reach(node, node.size, max(node.prealloc, end), room, now)
        else:
            self.reach(node, max(node.size, end), node.prealloc, room, now)

    def reach(self, node: Node, size: int, prealloc: int, room: int | None, now: int) -> None:
        needed = -(-max(size, prealloc) // BLOCK_BYTES) - node.blocks
        if room is not None and needed > room:
            raise Refused("RegionFullError")
        node.size, node.prealloc = size, prealloc
        node.mtime = node.ctime = now

    def punch(self, number: int, now: int) -> None:
        node = self.file(number)
        self.removable(node)
        node.mtime = node.ctime = now

    def set_xattr(self, number: int, name: bytes, value: bytes, flags: int, now: int) -> None:
        node = self.node(number)
        if flags == 1 and name in node.xattrs:
            raise Refused("EntryExistsError")
        if flags == 2 and name not in node.xattrs:
            raise Refused("NoAttributeError")
        before = len(name) + len(node.xattrs[name]) if name in node.xattrs else 0
        self.charge(node.uid, 0, len(name) + len(value) - before)
        node.xattrs[name] = value
        node.ctime = now

    def remove_xattr(self, number: int, name: bytes, now: int) -> None:
        node = self.node(number)
        if name not in node.xattrs:
            raise Refused("NoAttributeError")
        del node.xattrs[name]
        node.ctime = now

    def reap(self, number: int) -> None:
        self.node(number)
        if number not in self.nameless:
            raise Refused("BusyFsError")
        del self.nameless[number]
