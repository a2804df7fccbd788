"""link(2), linkat(2)."""

from __future__ import annotations

import os

from tests.mount.posix.names import LONGEST_NAME, TOO_LONG_NAME, TOO_LONG_PATH
from tests.mount.posix.table import Fd, Table, do
from tests.mount.posix.tree import Tree

table = Table("link")

FOLLOW, EMPTY_PATH = 0x400, 0x1000
CWD = -100

table.rows(
    "d/ f p| s= l->f dangling->no loop->loop to-d->d",
    [
        ("a file", do.link("f", "x"), "ok"),
        ("a pipe", do.link("p", "x"), "ok"),
        ("a socket", do.link("s", "x"), "ok"),
        ("a symlink", do.link("l", "x"), "ok"),
        ("a dangling symlink", do.link("dangling", "x"), "ok"),
        ("a looping symlink", do.link("loop", "x"), "ok"),
        ("what a symlink leads to", do.linkat(CWD, "l", "x", FOLLOW), "ok"),
        ("what a looping symlink leads to", do.linkat(CWD, "loop", "x", FOLLOW), "ELOOP"),
        ("what a dangling symlink leads to", do.linkat(CWD, "dangling", "x", FOLLOW), "ENOENT"),
        ("a directory", do.link("d", "x"), "EPERM"),
        ("to a name that is taken", do.link("f", "p"), "EEXIST"),
        ("to its own name", do.link("f", "f"), "EEXIST"),
        ("to a name that a directory has", do.link("f", "d"), "EEXIST"),
        ("to a name that a dangling symlink has", do.link("f", "dangling"), "EEXIST"),
        ("a name that is missing", do.link("no", "x"), "ENOENT"),
        ("the empty name", do.link("", "x"), "ENOENT"),
        ("to the empty name", do.link("f", ""), "ENOENT"),
        ("into a directory that is missing", do.link("f", "no/x"), "ENOENT"),
        ("from below a file", do.link("f/x", "y"), "ENOTDIR"),
        ("to below a file", do.link("f", "p/x"), "ENOTDIR"),
        ("to a trailing slash", do.link("f", "x/"), "ENOENT"),
        ("from below a looping symlink", do.link("loop/x", "y"), "ELOOP"),
        ("to below a looping symlink", do.link("f", "loop/x"), "ELOOP"),
        ("to a name that is too long", do.link("f", TOO_LONG_NAME), "ENAMETOOLONG"),
        ("a name that is too long", do.link(TOO_LONG_NAME, "x"), "ENAMETOOLONG"),
        ("a path that is too long", do.link("f", TOO_LONG_PATH), "ENAMETOOLONG"),
        ("to the longest name", do.link("f", LONGEST_NAME), "ok"),
        ("to another filesystem", do.link("f", "/dev/shm/no-such-name"), "EXDEV"),
        ("from another filesystem", do.link("/proc/self/stat", "x"), "EXDEV"),
        ("with a flag that does not exist", do.linkat(CWD, "f", "x", 0x1), "EINVAL"),
        ("an open file by its descriptor", do.linkat(Fd("f"), "", "x", EMPTY_PATH), "ok"),
        ("an open file without saying so", do.linkat(Fd("f"), "", "x", 0), "ENOENT"),
        ("a directory by its descriptor", do.linkat(Fd("d", os.O_RDONLY), "", "x", EMPTY_PATH), "EPERM"),
    ],
)

table.rows(
    "closed/ closed/f closed/~555 unseen/ unseen/f unseen/~666 open/~777 open/f@alice open/secret~600",
    [
        ("into where one may not write", do.alice.link("open/f", "closed/x"), "EACCES"),
        ("from where one may not search", do.alice.link("unseen/f", "open/x"), "EACCES"),
        ("one's own file", do.alice.link("open/f", "open/x"), "ok"),
        ("a file one may not write", do.alice.link("open/secret", "open/x"), "EPERM"),
        ("as root", do.link("open/secret", "closed/x"), "ok"),
    ],
)

table.times(
    "d/ d/f o/",
    [
        ("times", do.link("d/f", "o/x"), {"o": "mc", "d/f": "c", "d": ""}),
    ],
)


@table.check("both names are the same file", given="f:4096~640", gives=(2, 2, True, "600"))
def _(t: Tree) -> object:
    t.link("f", "g")
    same = t.lstat("f").st_ino == t.lstat("g").st_ino
    t.chmod("g", 0o600)
    return t.lstat("f").st_nlink, t.lstat("g").st_nlink, same, t.mode("f")


@table.check("a size changed by one name shows by the other", given="f", gives=(8192, 4096))
def _(t: Tree) -> object:
    t.link("f", "g")
    t.truncate("f", 8192)
    first = t.lstat("g").st_size
    t.truncate("g", 4096)
    return first, t.lstat("f").st_size


@table.check("links are counted up and down", given="f", gives=[2, 3, 4, 5, 4, 3, 2, 1])
def _(t: Tree) -> object:
    seen = []
    for number in range(4):
        t.link("f", f"n{number}")
        seen.append(t.lstat("f").st_nlink)
    for number in range(4):
        t.unlink(f"n{number}")
        seen.append(t.lstat("f").st_nlink)
    return seen


@table.check("a file without names cannot get one back", given="f", gives="ENOENT")
def _(t: Tree) -> object:
    fd = t.opened("f")
    t.unlink("f")
    return t.tries.linkat(fd, "", "x", EMPTY_PATH)


@table.check("a symlink keeps its target", given="l->somewhere", gives=("somewhere", 2))
def _(t: Tree) -> object:
    t.link("l", "k")
    return t.readlink("k"), t.lstat("k").st_nlink


@table.check("into a directory that was removed", given="d/ f", gives="ENOENT")
def _(t: Tree) -> object:
    fd = t.opened("d", 0)
    t.rmdir("d")
    return t.tries.link("f", f"/proc/self/fd/{fd}/x")


@table.check("a thousand links", given="f d/", gives=(1001, 1000, 1))
def _(t: Tree) -> object:
    t.several([("link", "f", f"d/{number}") for number in range(1000)])
    high = t.lstat("f").st_nlink, len(t.listdir("d"))
    t.several([("unlink", f"d/{number}") for number in range(1000)])
    return *high, t.lstat("f").st_nlink


test_link = table.test()
