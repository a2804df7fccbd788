"""symlink(2), readlink(2), and how paths follow symlinks."""

from __future__ import annotations

import os
import stat

from tests.mount.posix.names import LONGEST_NAME, TOO_LONG_NAME, TOO_LONG_PATH
from tests.mount.posix.table import Fd, Table, do
from tests.mount.posix.tree import Tree

table = Table("symlink")

LONGEST_TARGET = "t" * 4095

table.rows(
    "d/ f l->f dangling->no loop->loop closed/~555",
    [
        ("to what is missing", do.symlink("nowhere", "x"), "ok"),
        ("to a directory", do.symlink("d", "x"), "ok"),
        ("a name that is taken", do.symlink("d", "f"), "EEXIST"),
        ("a name that a directory has", do.symlink("f", "d"), "EEXIST"),
        ("a name that a dangling symlink has", do.symlink("f", "dangling"), "EEXIST"),
        ("a name that a looping symlink has", do.symlink("f", "loop"), "EEXIST"),
        ("to nothing", do.symlink("", "x"), "ENOENT"),
        ("the empty name", do.symlink("f", ""), "ENOENT"),
        ("in a directory that is missing", do.symlink("f", "no/x"), "ENOENT"),
        ("below a file", do.symlink("f", "f/x"), "ENOTDIR"),
        ("below a looping symlink", do.symlink("f", "loop/x"), "ELOOP"),
        ("the longest name", do.symlink("f", LONGEST_NAME), "ok"),
        ("a name that is too long", do.symlink("f", TOO_LONG_NAME), "ENAMETOOLONG"),
        ("a path that is too long", do.symlink("f", TOO_LONG_PATH), "ENAMETOOLONG"),
        ("to a target that is too long", do.symlink(LONGEST_TARGET + "t", "x"), "ENAMETOOLONG"),
        ("where one may not write", do.alice.symlink("f", "closed/x"), "EACCES"),
        ("readlink of a file", do.readlink("f"), "EINVAL"),
        ("readlink of a directory", do.readlink("d"), "EINVAL"),
        ("readlink of a name that is missing", do.readlink("no"), "ENOENT"),
        ("readlink below a file", do.readlink("f/x"), "ENOTDIR"),
        ("readlink below a looping symlink", do.readlink("loop/x"), "ELOOP"),
        ("readlink of a name that is too long", do.readlink(TOO_LONG_NAME), "ENAMETOOLONG"),
        ("readlink", do.readlink("l"), "f"),
        ("readlink of a loop", do.readlink("loop"), "loop"),
        ("readlink of the empty name", do.readlink(""), "ENOENT"),
        ("stat of a loop", do.stat("loop"), "ELOOP"),
        ("stat of a dangling symlink", do.stat("dangling"), "ENOENT"),
        ("truncate through a symlink", do.truncate("l", 100), "ok"),
        ("chmod through a dangling symlink", do.chmod("dangling", 0o600), "ENOENT"),
        ("chmod of a symlink itself", do.lchmod("l", 0o600), "EOPNOTSUPP"),
        ("reading a symlink opened with O_PATH", do.read(Fd("l", os.O_PATH | os.O_NOFOLLOW), 1), "EBADF"),
    ],
)

table.rows(
    "unseen/ unseen/l->f unseen/~666 d/ d/l->../f f~644",
    [
        ("readlink where one may not search", do.alice.readlink("unseen/l"), "EACCES"),
        ("readlink of somebody else's", do.alice.readlink("d/l"), "../f"),
        ("relative to where the symlink is", do.alice.opens("d/l"), "ok"),
    ],
)

table.times(
    "d/ l->d",
    [
        ("times", do.symlink("f", "d/x"), {"d": "mc", "d/x": "amc"}),
        ("times of readlink", do.readlink("l"), {"l": "a"}),
        ("times of following", do.stat("l"), {"l": "a", "d": ""}),
    ],
)


@table.check(
    "is a symlink with all permission bits", gives=(True, "777", 1, len("target"), ("alice", "alice"))
)
def _(t: Tree) -> object:
    t.alice.umask(0o77)
    t.alice.symlink("target", "l")
    at = t.lstat("l")
    return stat.S_ISLNK(at.st_mode), t.mode("l"), at.st_nlink, at.st_size, t.owner("l")


@table.check("the longest target comes back", gives=(4095, LONGEST_TARGET))
def _(t: Tree) -> object:
    t.symlink(LONGEST_TARGET, "l")
    return t.lstat("l").st_size, t.readlink("l")


@table.check("a target that is not UTF-8 comes back", gives=b"\xff\xfe\n\x01")
def _(t: Tree) -> object:
    t.symlink(b"\xff\xfe\n\x01", "l")
    return t.readlink_bytes("l")


@table.check("changes times of itself", given="f l->f", gives=(5 * 10**9, True))
def _(t: Tree) -> object:
    before = t.lstat("f").st_mtime_ns
    t.utimens("l", (4 * 10**9, 5 * 10**9), follow=False)
    return t.lstat("l").st_mtime_ns, t.lstat("f").st_mtime_ns == before


@table.check("changes owner of itself", given="f l->f", gives=(("alice", "alice"), ("root", "root")))
def _(t: Tree) -> object:
    t.lchown("l", t.alice.user.identity.uid, t.alice.user.identity.gid)
    return t.owner("l"), t.owner("f")


@table.check("forty in a row are followed, forty-one are not", given="f", gives=("ok", "ELOOP"))
def _(t: Tree) -> object:
    before = "f"
    for number in range(41):
        t.symlink(before, f"l{number}")
        before = f"l{number}"
    return t.tries.opens("l39"), t.tries.opens("l40")


@table.check("two that lead to each other", given="a->b b->a", gives=("ELOOP", "a"))
def _(t: Tree) -> object:
    return t.tries.opens("a"), t.readlink("b")


@table.check("replaced by another of the same name is seen at once", given="l->one", gives=("one", "two"))
def _(t: Tree) -> object:
    first = t.readlink("l")
    t.unlink("l")
    t.symlink("two", "l")
    return first, t.readlink("l")


@table.check("renamed over is seen at once", given="l->one k->two", gives=("one", "two"))
def _(t: Tree) -> object:
    first = t.readlink("l")
    t.rename("k", "l")
    return first, t.readlink("l")


@table.check("has extended attributes of no user", given="l->f", gives="EPERM")
def _(t: Tree) -> object:
    return t.tries.lsetxattr("l", "user.a", b"v")


test_symlink = table.test()
