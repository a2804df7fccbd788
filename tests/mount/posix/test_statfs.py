"""statfs(2), stat(2): what figures say."""

from __future__ import annotations

import os
import stat

from tests.mount.posix.names import TOO_LONG_NAME, TOO_LONG_PATH
from tests.mount.posix.table import Table, do
from tests.mount.posix.tree import Tree

statfs = Table("statfs")

MIB = 1 << 20


@statfs.check("of a path and of a descriptor are the same", given="d/ f", gives=True)
def _(t: Tree) -> object:
    by_path = t.statfs(".")
    return (
        by_path == t.statfs("f") == t.statfs("d") == t.fstatfs(t.opened("f")) == t.fstatfs(t.opened("d", 0))
    )


@statfs.check("the longest name", gives=255)
def _(t: Tree) -> object:
    return t.statfs(".")["f_namemax"]


@statfs.check("the size of the whole", gives=256 * MIB)
def _(t: Tree) -> object:
    figures = t.statfs(".")
    return figures["f_blocks"] * figures["f_frsize"]


@statfs.check("memory that is taken is not free, and is free again", given="f", gives=(8 * MIB, 0))
def _(t: Tree) -> object:
    def free() -> int:
        figures = t.statfs(".")
        return int(figures["f_bfree"] * figures["f_frsize"])

    before = free()
    fd = t.opened("f")
    t.fallocate(fd, 0, 0, 8 * MIB)
    taken = before - free()
    t.ftruncate(fd, 0)
    return taken, before - free()


@statfs.check("what is free is available to users", gives=True)
def _(t: Tree) -> object:
    figures = t.alice.statfs(".")
    return figures["f_bfree"] == figures["f_bavail"] > 0


@statfs.check("an inode more is one less that is free", gives=(1, 0))
def _(t: Tree) -> object:
    before = t.statfs(".")["f_ffree"]
    t.mknod("f")
    taken = before - t.statfs(".")["f_ffree"]
    t.unlink("f")
    return taken, before - t.statfs(".")["f_ffree"]


statfs.rows(
    "f l->f dangling->no loop->loop unseen/ unseen/f unseen/~666",
    [
        ("of a name that is missing", do.statfs("no"), "ENOENT"),
        ("of the empty name", do.statfs(""), "ENOENT"),
        ("below a file", do.statfs("f/x"), "ENOTDIR"),
        ("of a looping symlink", do.statfs("loop"), "ELOOP"),
        ("of a name that is too long", do.statfs(TOO_LONG_NAME), "ENAMETOOLONG"),
        ("of a path that is too long", do.statfs(TOO_LONG_PATH), "ENAMETOOLONG"),
        ("where one may not search", do.alice.statfs("unseen/f"), "EACCES"),
        ("of a descriptor that does not exist", do.fstatfs(999), "EBADF"),
    ],
)

status = Table("stat")

status.rows(
    "f l->f dangling->no loop->loop unseen/ unseen/f unseen/~666",
    [
        ("a name that is missing", do.stat("no"), "ENOENT"),
        ("the empty name", do.stat(""), "ENOENT"),
        ("below a file", do.stat("f/x"), "ENOTDIR"),
        ("a file with a trailing slash", do.stat("f/"), "ENOTDIR"),
        ("lstat of a symlink with a trailing slash", do.lstat("l/"), "ENOTDIR"),
        ("a looping symlink", do.stat("loop"), "ELOOP"),
        ("lstat below a looping symlink", do.lstat("loop/x"), "ELOOP"),
        ("a name that is too long", do.stat(TOO_LONG_NAME), "ENAMETOOLONG"),
        ("a path that is too long", do.stat(TOO_LONG_PATH), "ENAMETOOLONG"),
        ("where one may not search", do.alice.stat("unseen/f"), "EACCES"),
        ("a descriptor that does not exist", do.fstat(999), "EBADF"),
    ],
)


@status.check("of a file, of its symlink, of its descriptors", given="f:4096 l->f", gives=True)
def _(t: Tree) -> object:
    by_path = t.stat("f")
    others = (
        t.lstat("f"),
        t.stat("l"),
        t.fstat(t.opened("f")),
        t.fstat(t.opened("f", os.O_PATH)),
        t.alice.stat("f"),
    )
    return all(tuple(each) == tuple(by_path) for each in others)


@status.check("a symlink is not its file", given="f:4096 l->f", gives=(True, 1))
def _(t: Tree) -> object:
    return stat.S_ISLNK(t.lstat("l").st_mode), t.lstat("l").st_size


@status.check("files have different numbers on one device", given="a b c/ d| e->x", gives=(5, 1))
def _(t: Tree) -> object:
    seen = [t.lstat(name) for name in "abcde"]
    return len({each.st_ino for each in seen}), len({each.st_dev for each in seen})


@status.check("numbers are not used again at once", given="f", gives=False)
def _(t: Tree) -> object:
    ino = t.lstat("f").st_ino
    t.unlink("f")
    t.mknod("f")
    return t.lstat("f").st_ino == ino


@status.check("change time never goes back", given="f", gives=True)
def _(t: Tree) -> object:
    seen = []
    for mode in (0o600, 0o644) * 20:
        t.chmod("f", mode)
        seen.append(t.lstat("f").st_ctime_ns)
    return seen == sorted(seen)


@status.check("statx fills in the basic fields", given="f", gives=0x7FF)
def _(t: Tree) -> object:
    return t.statx_version("f") & 0x7FF


test_statfs = statfs.test()
test_stat = status.test()
