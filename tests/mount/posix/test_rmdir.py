"""rmdir(2)."""

from __future__ import annotations

from tests.mount.posix.names import TOO_LONG_NAME, TOO_LONG_PATH
from tests.mount.posix.table import Table, do
from tests.mount.posix.tree import Tree

table = Table("rmdir")

table.rows(
    "d/ full/ full/f f p| l->d dangling->no loop->loop deep/ deep/d/ deep/d/e/",
    [
        ("an empty directory", do.rmdir("d"), "ok"),
        ("with a trailing slash", do.rmdir("d/"), "ok"),
        ("a directory that holds a file", do.rmdir("full"), "ENOTEMPTY"),
        ("a directory that holds a directory", do.rmdir("deep"), "ENOTEMPTY"),
        ("dot", do.rmdir("."), "EINVAL"),
        ("dot of a directory", do.rmdir("d/."), "EINVAL"),
        ("dot dot", do.rmdir(".."), "ENOTEMPTY"),
        ("dot dot of a directory", do.rmdir("deep/d/.."), "ENOTEMPTY"),
        ("a file", do.rmdir("f"), "ENOTDIR"),
        ("a pipe", do.rmdir("p"), "ENOTDIR"),
        ("a symlink to a directory", do.rmdir("l"), "ENOTDIR"),
        ("a symlink to a directory with a trailing slash", do.rmdir("l/"), "ENOTDIR"),
        ("a name that is missing", do.rmdir("no"), "ENOENT"),
        ("the empty name", do.rmdir(""), "ENOENT"),
        ("below a file", do.rmdir("f/x"), "ENOTDIR"),
        ("below a directory that is missing", do.rmdir("no/x"), "ENOENT"),
        ("below a looping symlink", do.rmdir("loop/x"), "ELOOP"),
        ("a name that is too long", do.rmdir(TOO_LONG_NAME), "ENAMETOOLONG"),
        ("a path that is too long", do.rmdir(TOO_LONG_PATH), "ENAMETOOLONG"),
    ],
)

table.rows(
    "closed/ closed/d/ closed/~555 unseen/ unseen/d/ unseen/~666 open/~777 open/d/@alice",
    [
        ("where one may not write", do.alice.rmdir("closed/d"), "EACCES"),
        ("where one may not search", do.alice.rmdir("unseen/d"), "EACCES"),
        ("somebody else's where everybody may write", do.bob.rmdir("open/d"), "ok"),
        ("as root where nobody may write", do.rmdir("closed/d"), "ok"),
    ],
)

table.times(
    "d/ d/e/ d/full/ d/full/f",
    [
        ("times", do.rmdir("d/e"), {"d": "mc", ".": ""}),
    ],
)


@table.check("takes a link of its parent", given="d/", gives=(3, 2))
def _(t: Tree) -> object:
    before = t.stat(".").st_nlink
    t.rmdir("d")
    return before, t.stat(".").st_nlink


@table.check(
    "a directory that is open stays, empty and without links",
    given="d/",
    gives=(0, "ENOENT", "ENOENT", True),
)
def _(t: Tree) -> object:
    fd = t.opened("d", 0)
    t.rmdir("d")
    return (
        t.fstat(fd).st_nlink,
        t.tries.entries(fd),
        t.tries.openat(fd, "x", 0o102),
        type(t.tries.openat(fd, "..")) is int,
    )


@table.check("the current directory", given="d/", gives=("ok", "ENOENT", 0))
def _(t: Tree) -> object:
    t.chdir("d")
    said = t.tries.rmdir("../d")
    return said, t.tries.mkdir("x"), t.stat(".").st_nlink


@table.check("again is gone", given="d/", gives=("ok", "ENOENT"))
def _(t: Tree) -> object:
    return t.tries.rmdir("d"), t.tries.rmdir("d")


@table.check("unlinkat with AT_REMOVEDIR is the same", given="d/ f", gives=("ok", "ENOTDIR", "EINVAL"))
def _(t: Tree) -> object:
    here = t.opened(".", 0)
    return (
        t.tries.unlinkat(here, "d", 0x200),
        t.tries.unlinkat(here, "f", 0x200),
        t.tries.unlinkat(here, "f", 0x1),
    )


@table.check("a name can be made anew at once", given="d/", gives=("ok", "ok", ["d"]))
def _(t: Tree) -> object:
    t.stat("d")
    return t.tries.rmdir("d"), t.tries.mkdir("d"), t.listdir()


@table.check("a directory whose entries went one by one", given="d/", gives=("ENOTEMPTY", "ok"))
def _(t: Tree) -> object:
    for number in range(50):
        t.mknod(f"d/{number}")
    early = t.tries.rmdir("d")
    for number in range(50):
        t.unlink(f"d/{number}")
    return early, t.tries.rmdir("d")


test_rmdir = table.test()
