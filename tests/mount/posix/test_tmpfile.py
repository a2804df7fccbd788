"""open(2) with O_TMPFILE, and linkat(2) to give such a file a name."""

from __future__ import annotations

import os
import stat

from tests.mount.posix.table import Table, do
from tests.mount.posix.tree import Tree

table = Table("tmpfile")

NAMELESS = os.O_TMPFILE
EXCLUSIVE = os.O_EXCL
RW, W, R = os.O_RDWR, os.O_WRONLY, os.O_RDONLY
FOLLOW, EMPTY_PATH, CWD = 0x400, 0x1000, -100

table.rows(
    "d/ f l->d dangling->no loop->loop closed/~555 unseen/ unseen/d/~777 unseen/~666",
    [
        ("in a directory", do.opens("d", NAMELESS | RW), "ok"),
        ("for writing only", do.opens("d", NAMELESS | W), "ok"),
        ("for reading only", do.opens("d", NAMELESS | R), "EINVAL"),
        ("never to be named", do.opens("d", NAMELESS | RW | EXCLUSIVE), "ok"),
        ("creating", do.opens("d", NAMELESS | RW | os.O_CREAT), "EINVAL"),
        ("in a file", do.opens("f", NAMELESS | RW), "ENOTDIR"),
        ("through a symlink", do.opens("l", NAMELESS | RW), "ok"),
        ("in what is missing", do.opens("no", NAMELESS | RW), "ENOENT"),
        ("in a dangling symlink", do.opens("dangling", NAMELESS | RW), "ENOENT"),
        ("in a looping symlink", do.opens("loop", NAMELESS | RW), "ELOOP"),
        ("where one may not write", do.alice.opens("closed", NAMELESS | RW), "EACCES"),
        ("where one may not search", do.alice.opens("unseen/d", NAMELESS | RW), "EACCES"),
        ("where everybody may write", do.alice.opens(".", NAMELESS | RW), "ok"),
    ],
)

table.times("d/", [("times of the directory", do.opens("d", NAMELESS | RW), {"d": ""})])


@table.check("is an empty file without a name", given="d/", gives=(True, 0, 0, "640", "alice", []))
def _(t: Tree) -> object:
    t.chmod("d", 0o777)
    t.alice.umask(0o27)
    at = t.alice.fstat(t.alice.open("d", NAMELESS | RW, 0o666))
    owner = "alice" if at.st_uid == t.alice.user.identity.uid else at.st_uid
    return (
        stat.S_ISREG(at.st_mode),
        at.st_nlink,
        at.st_size,
        f"{at.st_mode & 0o7777:o}",
        owner,
        t.listdir("d"),
    )


@table.check("times of getting a name", given="d/", gives={"d": "mc", "file": "c"})
def _(t: Tree) -> object:
    fd = t.opened("d", NAMELESS | RW)
    t.futimens(fd, 5, 5)
    before, at = t.past_times(["d"])["d"], t.fstat(fd)
    t.linkat(fd, "", "d/x", EMPTY_PATH)
    after, now = t.times(["d", "d/x"]), t.fstat(fd)
    moved = "".join(letter for letter, was, is_ in zip("amc", before, after["d"], strict=True) if was != is_)
    figures = ("st_atime_ns", "st_mtime_ns", "st_ctime_ns")
    own = "".join(
        letter for letter, each in zip("amc", figures, strict=True) if getattr(at, each) != getattr(now, each)
    )
    return {"d": moved, "file": own}


@table.check("gets a name from its descriptor", given="d/", gives=("ok", 1, ["x"], 8192))
def _(t: Tree) -> object:
    fd = t.opened("d", NAMELESS | RW)
    t.ftruncate(fd, 8192)
    said = t.tries.linkat(fd, "", "d/x", EMPTY_PATH)
    return said, t.fstat(fd).st_nlink, t.listdir("d"), t.lstat("d/x").st_size


@table.check("gets a name from /proc as anybody", given="d/~777", gives=("ok", ["x"], 1))
def _(t: Tree) -> object:
    fd = t.alice.open("d", NAMELESS | RW)
    said = t.alice.tries.linkat(CWD, f"/proc/self/fd/{fd}", "d/x", FOLLOW)
    return said, t.listdir("d"), t.lstat("d/x").st_nlink


@table.check("gets several names", given="d/", gives=(2, 1))
def _(t: Tree) -> object:
    fd = t.opened("d", NAMELESS | RW)
    t.linkat(fd, "", "d/x", EMPTY_PATH)
    t.link("d/x", "y")
    high = t.fstat(fd).st_nlink
    t.unlink("y")
    return high, t.fstat(fd).st_nlink


@table.check("gets no name that is taken", given="d/ d/x", gives=("EEXIST", 0))
def _(t: Tree) -> object:
    fd = t.opened("d", NAMELESS | RW)
    return t.tries.linkat(fd, "", "d/x", EMPTY_PATH), t.fstat(fd).st_nlink


@table.check("gets no name when opened so", given="d/", gives=("ENOENT", []))
def _(t: Tree) -> object:
    fd = t.opened("d", NAMELESS | RW | EXCLUSIVE)
    return t.tries.linkat(fd, "", "d/x", EMPTY_PATH), t.listdir("d")


@table.check("gets no name again once it lost it", given="d/", gives=("ok", "ENOENT"))
def _(t: Tree) -> object:
    fd = t.opened("d", NAMELESS | RW)
    said = t.tries.linkat(fd, "", "d/x", EMPTY_PATH)
    t.unlink("d/x")
    return said, t.tries.linkat(fd, "", "d/x", EMPTY_PATH)


@table.check("gets a name in another directory", given="d/ o/", gives=("ok", [], ["x"]))
def _(t: Tree) -> object:
    fd = t.opened("d", NAMELESS | RW)
    return t.tries.linkat(fd, "", "o/x", EMPTY_PATH), t.listdir("d"), t.listdir("o")


@table.check("survives the directory it was made in", given="d/", gives=("ok", "ok", 4096))
def _(t: Tree) -> object:
    fd = t.opened("d", NAMELESS | RW)
    removed = t.tries.rmdir("d")
    t.ftruncate(fd, 4096)
    return removed, t.tries.linkat(fd, "", "x", EMPTY_PATH), t.lstat("x").st_size


@table.check("can be mapped, and keeps its bytes when it gets a name", given="d/", gives=b"guest")
def _(t: Tree) -> object:
    fd = t.opened("d", NAMELESS | RW)
    t.ftruncate(fd, 8192)
    t.poke(t.mmap(fd, 8192, 3, 1), 0, b"guest")
    t.linkat(fd, "", "x", EMPTY_PATH)
    t.close(fd)
    return t.peek(t.mmap(t.opened("x"), 8192, 3, 1), 0, 5)


@table.check("takes attributes", given="d/", gives=("600", 61001, b"v", 5))
def _(t: Tree) -> object:
    fd = t.opened("d", NAMELESS | RW)
    name = f"/proc/self/fd/{fd}"
    t.fchown(fd, 61001, -1)
    t.fchmod(fd, 0o600)
    t.setxattr(name, "user.a", b"v")
    t.futimens(fd, 4, 5)
    t.linkat(fd, "", "x", EMPTY_PATH)
    at = t.lstat("x")
    return t.mode("x"), at.st_uid, t.getxattr("x", "user.a"), at.st_mtime_ns


@table.check("gives its memory back when it is closed", given="d/", gives=True)
def _(t: Tree) -> object:
    def free() -> int:
        return int(t.statfs(".")["f_bfree"] * t.statfs(".")["f_frsize"])

    before = free()
    fd = t.opened("d", NAMELESS | RW)
    t.fallocate(fd, 0, 0, 8 << 20)
    during = free()
    t.close(fd)
    return before - during >= 8 << 20 and t.eventually(lambda: free() - during >= 8 << 20)


test_tmpfile = table.test()
