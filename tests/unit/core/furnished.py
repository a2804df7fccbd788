"""A small world with one of everything, and commands in short, for the tests of decide."""

from __future__ import annotations

import stat

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.types import (
    ROOT_INO,
    Ino,
    UserLimits,
)
from tests.unit.core.world import USER, World, empty_state

MISSING = Ino(999)
TOO_LONG = b"n" * 256


def furnished(*, extents: bool = False) -> World:
    """/file(2) /dir(3) /dir/sub(4) /link(5) /pipe(6) /pinned(7) /saved(8) orphan(9) removed directory(10)"""
    world = World(empty_state(extents=extents, limits=UserLimits(max_files=2, max_xattr_bytes=30)))
    assert world.make(b"file", uid=USER) == 2
    assert world.mkdir(b"dir") == 3
    assert world.mkdir(b"sub", parent=3) == 4
    assert world.make(b"link", kind=stat.S_IFLNK) == 5
    assert world.make(b"pipe", kind=stat.S_IFIFO) == 6
    assert world.make(b"pinned") == 7
    world.do(cmd.Resize(Ino(7), 5))
    world.do(cmd.Pin(Ino(7), True))
    assert world.make(b"saved") == 8
    world.do(cmd.Resize(Ino(8), 5))
    world.do(cmd.Mark(Ino(8), b"vm"))
    assert world.make(b"") == 9
    assert world.mkdir(b"gone") == 10
    world.do(cmd.Rmdir(ROOT_INO, b"gone"))
    world.do(cmd.SetXattr(Ino(2), b"user.a", b"12345"))
    return world


def make(name: bytes, parent: int = 1, mode: int = stat.S_IFREG | 0o600, uid: int = 0) -> cmd.Make:
    return cmd.Make(Ino(parent), name, mode, uid, 0)


def rename(name: bytes, new: bytes, parent: int = 1, to: int = 1, flags: int = 0) -> cmd.Rename:
    return cmd.Rename(Ino(parent), name, Ino(to), new, flags)
