"""The state of one instance: inode table, namespace, orphans, session, limits.

Owns nothing outside memory. Only `evolve` (and loading an image) changes a State; everybody else reads.

Invariants, checked by core/check.py and by the model tests after every step:
- every name leads to an inode of the table; nlink is the number of names (for a directory 2 plus its
  subdirectories); an inode without names is in `orphans`;
- `next_ino` is above every inode number ever used;
- with extents, no block belongs to two files, and free, used and quarantined blocks are the region.
"""

from __future__ import annotations

import stat
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

from guestmemfs_fuse.core.directory import Directory
from guestmemfs_fuse.core.extents import FreeMap
from guestmemfs_fuse.core.types import (
    FIRST_FREE_INO,
    ROOT_INO,
    BackingId,
    Extent,
    Ino,
    Unique,
    UserLimits,
)

RECENT_REQUESTS: Final = 4096
"""How many answered requests are remembered: far more than one daemon can have journaled but not
answered when it dies (it answers right behind the journal write)."""

PAST_DEVICES: Final = 64
"""How many former superblocks of this instance are remembered: a guest may still map files through one."""


@dataclass(slots=True)
class Inode:
    """One inode. Sizes in bytes; `extents` only where the region's files are extents of it."""

    ino: Ino
    mode: int
    uid: int
    gid: int
    nlink: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    rdev: int = 0
    size_bytes: int = 0
    prealloc_bytes: int = 0
    target: bytes = b""
    xattrs: dict[bytes, bytes] | None = None
    pinned: bool = False
    mark: bytes = b""
    backing_id: BackingId | None = None
    extents: tuple[Extent, ...] = ()
    directory: Directory | None = None

    @property
    def is_dir(self) -> bool:
        return self.directory is not None

    @property
    def is_file(self) -> bool:
        """A regular file: the only type that has memory in the region."""
        return stat.S_ISREG(self.mode)

    @property
    def xattr_bytes(self) -> int:
        """Names and values of all extended attributes."""
        return sum(len(name) + len(value) for name, value in (self.xattrs or {}).items())

    @property
    def block_count(self) -> int:
        """Blocks of the region that belong to this file (extent kinds)."""
        return sum(extent.count for extent in self.extents)


@dataclass(slots=True)
class UserUsage:
    """What one user owns: inodes, and bytes of extended attributes."""

    files: int = 0
    xattr_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Session:
    """The FUSE connection: the kernel's INIT request and the device number of its superblock."""

    init_request: bytes
    device: int


@dataclass(slots=True)
class State:
    """All of one instance; see the module's invariants. `free` is None unless files are extents."""

    region_bytes: int
    block_bytes: int
    limits: UserLimits = field(default_factory=UserLimits)
    inodes: dict[Ino, Inode] = field(default_factory=dict)
    next_ino: Ino = FIRST_FREE_INO
    orphans: set[Ino] = field(default_factory=set)
    usage: dict[int, UserUsage] = field(default_factory=dict)
    frozen: bool = False
    generation: int = 0
    session: Session | None = None
    past_devices: tuple[int, ...] = ()
    recent: OrderedDict[Unique, Ino] = field(default_factory=OrderedDict)
    quarantined: tuple[Extent, ...] = ()
    free: FreeMap | None = None

    def user(self, uid: int) -> UserUsage:
        """What `uid` owns, for counting."""
        return self.usage.setdefault(uid, UserUsage())

    @property
    def root(self) -> Inode:
        return self.inodes[ROOT_INO]

    @property
    def devices(self) -> frozenset[int]:
        """Device numbers under which processes may map files of this instance."""
        current = (self.session.device,) if self.session else ()
        return frozenset(self.past_devices + current)


def new_state(
    *,
    region_bytes: int,
    block_bytes: int,
    now_ns: int,
    extents: bool = False,
    root_mode: int = 0o755,
    limits: UserLimits | None = None,
) -> State:
    """An instance with nothing but its root directory.

    extents: whether files are lists of blocks of one region file (hugetlb).
    """
    state = State(region_bytes=region_bytes, block_bytes=block_bytes, limits=limits or UserLimits())
    if extents:
        state.free = FreeMap(region_bytes // block_bytes)
    root = Inode(ROOT_INO, stat.S_IFDIR | root_mode, 0, 0, 2, now_ns, now_ns, now_ns)
    root.directory = Directory(ROOT_INO)
    state.inodes[ROOT_INO] = root
    state.user(0).files += 1
    return state
