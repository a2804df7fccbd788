"""mkdir(2)."""

from __future__ import annotations

from tests.mount.posix.names import LONGEST_NAME, LONGEST_PATH, TOO_LONG_NAME, TOO_LONG_PATH
from tests.mount.posix.table import Table, do
from tests.mount.posix.tree import Tree

table = Table("mkdir")

table.rows(
    "d/ f p| s= l->f dangling->no loop->loop to-d->d",
    [
        ("a name that a directory has", do.mkdir("d"), "EEXIST"),
        ("a name that a file has", do.mkdir("f"), "EEXIST"),
        ("a name that a pipe has", do.mkdir("p"), "EEXIST"),
        ("a name that a socket has", do.mkdir("s"), "EEXIST"),
        ("a name that a symlink to a directory has", do.mkdir("to-d"), "EEXIST"),
        ("a name that a dangling symlink has", do.mkdir("dangling"), "EEXIST"),
        ("a name that a looping symlink has", do.mkdir("loop"), "EEXIST"),
        ("dot", do.mkdir("."), "EEXIST"),
        ("dot dot", do.mkdir(".."), "EEXIST"),
        ("the empty name", do.mkdir(""), "ENOENT"),
        ("in a directory that is missing", do.mkdir("no/x"), "ENOENT"),
        ("below a file", do.mkdir("f/x"), "ENOTDIR"),
        ("below a pipe", do.mkdir("p/x"), "ENOTDIR"),
        ("below a looping symlink", do.mkdir("loop/x"), "ELOOP"),
        ("below a dangling symlink", do.mkdir("dangling/x"), "ENOENT"),
        ("through a symlink to a directory", do.mkdir("to-d/x"), "ok"),
        ("with a trailing slash", do.mkdir("x/"), "ok"),
        ("with the longest name", do.mkdir(LONGEST_NAME), "ok"),
        ("with a name that is too long", do.mkdir(TOO_LONG_NAME), "ENAMETOOLONG"),
        ("by the longest path", do.mkdir(LONGEST_PATH), "ok"),
        ("by a path that is too long", do.mkdir(TOO_LONG_PATH), "ENAMETOOLONG"),
    ],
)

table.rows(
    "closed/~555 unseen/ unseen/in/~777 unseen/~700 alices/~755@alice",
    [
        ("in a directory that may not be written", do.alice.mkdir("closed/x"), "EACCES"),
        ("in a directory that may not be searched", do.alice.mkdir("unseen/in/x"), "EACCES"),
        ("in somebody else's directory", do.bob.mkdir("alices/x"), "EACCES"),
        ("in one's own directory", do.alice.mkdir("alices/x"), "ok"),
        ("as root where nobody may write", do.mkdir("closed/x"), "ok"),
    ],
)

table.times(
    "d/",
    [
        ("times", do.mkdir("d/x"), {"d": "mc", "d/x": "amc", ".": ""}),
    ],
)

for umask, mode, gives in (
    (0, 0o777, "777"),
    (0o22, 0o777, "755"),
    (0o77, 0o1777, "1700"),
    (0o777, 0o777, "0"),
):

    @table.check(f"mode {mode:o} under umask {umask:o}", gives=gives)
    def _(t: Tree, umask: int = umask, mode: int = mode) -> object:
        t.umask(umask)
        t.mkdir("d", mode)
        return t.mode("d")


@table.check("sets no setuid and no setgid bit", gives="700")
def _(t: Tree) -> object:
    t.umask(0)
    t.mkdir("d", 0o6700)
    return t.mode("d")


@table.check("belongs to who made it", gives=("alice", "alice"))
def _(t: Tree) -> object:
    t.alice.mkdir("d")
    return t.owner("d")


@table.check("counts in its parent's links, and has two", gives=(2, 3, 2))
def _(t: Tree) -> object:
    before = t.stat(".").st_nlink
    t.mkdir("d")
    return before, t.stat(".").st_nlink, t.stat("d").st_nlink


@table.check("holds dot and dot dot only", gives=[b".", b".."])
def _(t: Tree) -> object:
    t.mkdir("d")
    return sorted(name for name, *_ in t.entries(t.opened("d", 0)))


@table.check("in a directory that was removed", gives="ENOENT")
def _(t: Tree) -> object:
    t.mkdir("d")
    fd = t.opened("d", 0)
    t.rmdir("d")
    return t.tries.mkdirat(fd, "x")


@table.check("as deep as one likes", gives=(300, 300))
def _(t: Tree) -> object:
    top = t.opened(".", 0)
    t.several([("mkdir", "d"), ("chdir", "d")] * 300)
    return 300, t.depth(top)


test_mkdir = table.test()
