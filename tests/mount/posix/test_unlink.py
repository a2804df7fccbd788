"""unlink(2), and files that outlive their last name."""

from __future__ import annotations

import mmap
import os

from tests.mount.posix.names import TOO_LONG_NAME, TOO_LONG_PATH
from tests.mount.posix.table import Table, do
from tests.mount.posix.tree import Tree

table = Table("unlink")

SHARED = mmap.MAP_SHARED
RW = mmap.PROT_READ | mmap.PROT_WRITE

table.rows(
    "d/ f two:4096+other p| s= l->d dangling->no loop->loop",
    [
        ("a file", do.unlink("f"), "ok"),
        ("a file with another name", do.unlink("two"), "ok"),
        ("a pipe", do.unlink("p"), "ok"),
        ("a socket", do.unlink("s"), "ok"),
        ("a symlink to a directory", do.unlink("l"), "ok"),
        ("a dangling symlink", do.unlink("dangling"), "ok"),
        ("a looping symlink", do.unlink("loop"), "ok"),
        ("a directory", do.unlink("d"), "EISDIR"),
        ("dot", do.unlink("."), "EISDIR"),
        ("a name that is missing", do.unlink("no"), "ENOENT"),
        ("the empty name", do.unlink(""), "ENOENT"),
        ("below a file", do.unlink("f/x"), "ENOTDIR"),
        ("a file with a trailing slash", do.unlink("f/"), "ENOTDIR"),
        ("below a directory that is missing", do.unlink("no/x"), "ENOENT"),
        ("below a looping symlink", do.unlink("loop/x"), "ELOOP"),
        ("a name that is too long", do.unlink(TOO_LONG_NAME), "ENAMETOOLONG"),
        ("a path that is too long", do.unlink(TOO_LONG_PATH), "ENAMETOOLONG"),
    ],
)

table.rows(
    "closed/ closed/f closed/~555 unseen/ unseen/f unseen/~666 open/~777 open/f@alice",
    [
        ("where one may not write", do.alice.unlink("closed/f"), "EACCES"),
        ("where one may not search", do.alice.unlink("unseen/f"), "EACCES"),
        ("somebody else's where everybody may write", do.bob.unlink("open/f"), "ok"),
        ("as root where nobody may write", do.unlink("closed/f"), "ok"),
    ],
)

table.times(
    "d/ d/f d/g+d/h",
    [
        ("times", do.unlink("d/f"), {"d": "mc", ".": ""}),
        ("times of a file that has another name", do.unlink("d/g"), {"d": "mc", "d/h": "c"}),
    ],
)


@table.check("takes a link", given="f+g", gives=(2, 1, "ENOENT"))
def _(t: Tree) -> object:
    before = t.lstat("g").st_nlink
    t.unlink("f")
    return before, t.lstat("g").st_nlink, t.tries.lstat("f")


@table.check("an open file lives on", given="f:4096", gives=(0, 4096, "ok", 8192, "ok", "ENOENT"))
def _(t: Tree) -> object:
    fd = t.opened("f")
    t.unlink("f")
    nlink, size = t.fstat(fd).st_nlink, t.fstat(fd).st_size
    grown = t.tries.ftruncate(fd, 8192)
    return nlink, size, grown, t.fstat(fd).st_size, t.tries.fchmod(fd, 0o600), t.tries.lstat("f")


@table.check("the change time of an open file moves", given="f", gives=True)
def _(t: Tree) -> object:
    fd = t.opened("f")
    t.past_times(["f"])
    before = t.fstat(fd).st_ctime_ns
    t.unlink("f")
    return t.fstat(fd).st_ctime_ns > before


@table.check("an open file can be opened again by its descriptor", given="f:4096", gives=(4096, 0))
def _(t: Tree) -> object:
    fd = t.opened("f")
    t.unlink("f")
    again = t.opened(f"/proc/self/fd/{fd}")
    return t.fstat(again).st_size, t.fstat(again).st_nlink


@table.check("a new file of the same name is another one", given="f:4096", gives=(False, 0, 4096))
def _(t: Tree) -> object:
    fd = t.opened("f")
    t.unlink("f")
    t.mknod("f")
    return t.lstat("f").st_ino == t.fstat(fd).st_ino, t.lstat("f").st_size, t.fstat(fd).st_size


@table.check("a mapped file lives on when its descriptor is closed", given="f:4096", gives=b"guest")
def _(t: Tree) -> object:
    fd = t.opened("f")
    mapping = t.mmap(fd, 4096, RW, SHARED)
    t.poke(mapping, 0, b"guest")
    t.unlink("f")
    t.close(fd)
    return t.peek(mapping, 0, 5)


@table.check(
    "a mapped file does not show in a new file of its name", given="f:4096", gives=(b"\0" * 5, b"guest")
)
def _(t: Tree) -> object:
    first = t.mmap(t.opened("f"), 4096, RW, SHARED)
    t.poke(first, 0, b"guest")
    t.unlink("f")
    fd = t.opened("f", os.O_RDWR | os.O_CREAT)
    t.ftruncate(fd, 4096)
    return t.peek(t.mmap(fd, 4096, RW, SHARED), 0, 5), t.peek(first, 0, 5)


@table.check("memory comes back with the last user", given="f:8388608", gives=(True, True))
def _(t: Tree) -> object:
    def used() -> int:
        figures = t.statfs(".")
        return int((figures["f_blocks"] - figures["f_bfree"]) * figures["f_frsize"])

    fd = t.opened("f")
    t.fallocate(fd, 0, 0, 8388608)
    before = used()
    t.unlink("f")
    held = used()
    t.close(fd)
    return held == before, t.eventually(lambda: used() <= before - 8388608)


@table.check("a file that two users have open", given="f:4096~666", gives=(4096, 4096, "ENOENT"))
def _(t: Tree) -> object:
    mine, alices = t.opened("f"), t.alice.open("f", os.O_RDWR)
    t.alice.tries.unlink("f")
    t.unlink("f") if t.exists("f") else None
    return t.fstat(mine).st_size, t.alice.fstat(alices).st_size, t.tries.opens("f")


@table.check("extended attributes of an unlinked file", given="f", gives=b"value")
def _(t: Tree) -> object:
    fd = t.opened("f")
    t.unlink("f")
    t.setxattr(f"/proc/self/fd/{fd}", "user.a", b"value")
    return t.getxattr(f"/proc/self/fd/{fd}", "user.a")


@table.check("unlinkat with flags that do not exist", given="f", gives=("EINVAL", "ok"))
def _(t: Tree) -> object:
    here = t.opened(".", 0)
    return t.tries.unlinkat(here, "f", 0x1), t.tries.unlinkat(here, "f", 0)


test_unlink = table.test()
