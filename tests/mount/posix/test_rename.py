"""rename(2), renameat2(2) with RENAME_NOREPLACE and RENAME_EXCHANGE."""

from __future__ import annotations

import os
from itertools import product

from tests.mount.posix.names import LONGEST_NAME, TOO_LONG_NAME, TOO_LONG_PATH
from tests.mount.posix.table import Table, do
from tests.mount.posix.tree import Tree

table = Table("rename")

NOREPLACE, EXCHANGE, WHITEOUT = 1, 2, 4

# Every kind of source over every kind of target: what POSIX says in one function.

KINDS = {
    "file": "{}:4096",
    "directory": "{}/",
    "full directory": "{0}/ {0}/in",
    "symlink": "{}->nowhere",
    "pipe": "{}|",
    "socket": "{}=",
}


def replaced(source: str, target: str) -> str:
    """What renaming a `source` over a `target` gives."""
    if "directory" not in target:
        return "ENOTDIR" if "directory" in source else "ok"
    if "directory" not in source:
        return "EISDIR"
    return "ENOTEMPTY" if target == "full directory" else "ok"


for source, target in product(KINDS, KINDS):
    given = f"{KINDS[source].format('a')} {KINDS[target].format('b')}"
    gives = replaced(source, target)
    table.rows(
        given,
        [
            (f"a {source} over a {target}", do.rename("a", "b"), gives),
            (f"a {source} over a {target} not to be replaced", do.rename("a", "b", NOREPLACE), "EEXIST"),
            (f"a {source} exchanged with a {target}", do.rename("a", "b", EXCHANGE), "ok"),
        ],
    )

for source in KINDS:
    table.rows(
        f"{KINDS[source].format('a')} d/",
        [
            (f"a {source} to a free name", do.rename("a", "b"), "ok"),
            (f"a {source} into another directory", do.rename("a", "d/a", NOREPLACE), "ok"),
            (f"a {source} onto itself", do.rename("a", "a"), "ok"),
        ],
    )

table.rows(
    "d/ d/e/ f:10 full/ full/in l->d dangling->no loop->loop",
    [
        ("a name that is missing", do.rename("no", "x"), "ENOENT"),
        ("the empty name", do.rename("", "x"), "ENOENT"),
        ("to the empty name", do.rename("f", ""), "ENOENT"),
        ("into a directory that is missing", do.rename("f", "no/x"), "ENOENT"),
        ("from below a file", do.rename("f/x", "y"), "ENOTDIR"),
        ("to below a file", do.rename("d", "f/x"), "ENOTDIR"),
        ("from below a looping symlink", do.rename("loop/x", "y"), "ELOOP"),
        ("to below a looping symlink", do.rename("f", "loop/x"), "ELOOP"),
        ("a looping symlink itself", do.rename("loop", "x"), "ok"),
        ("a dangling symlink itself", do.rename("dangling", "x"), "ok"),
        ("over a symlink to a directory", do.rename("f", "l"), "ok"),
        ("a file with a trailing slash", do.rename("f/", "x"), "ENOTDIR"),
        ("a file to a trailing slash", do.rename("f", "x/"), "ENOTDIR"),
        ("a directory to a trailing slash", do.rename("d", "x/"), "ok"),
        ("a directory into itself", do.rename("d", "d/x"), "EINVAL"),
        ("a directory below itself", do.rename("d", "d/e/x"), "EINVAL"),
        ("a directory over its parent", do.rename("d/e", "d"), "ENOTEMPTY"),
        ("dot", do.rename(".", "x"), "EBUSY"),
        ("dot dot", do.rename("..", "x"), "EBUSY"),
        ("to dot", do.rename("d", "."), "EBUSY"),
        ("to dot dot", do.rename("d", "d/.."), "EBUSY"),
        ("to a name that is too long", do.rename("f", TOO_LONG_NAME), "ENAMETOOLONG"),
        ("a name that is too long", do.rename(TOO_LONG_NAME, "x"), "ENAMETOOLONG"),
        ("a path that is too long", do.rename(TOO_LONG_PATH, "x"), "ENAMETOOLONG"),
        ("to the longest name", do.rename("f", LONGEST_NAME), "ok"),
        ("to another filesystem", do.rename("f", "/proc/self/stat"), "EXDEV"),
        ("from another filesystem", do.rename("/proc/self/stat", "x"), "EXDEV"),
        ("both flags", do.rename("f", "d", NOREPLACE | EXCHANGE), "EINVAL"),
        ("a flag that does not exist", do.rename("f", "x", 64), "EINVAL"),
        ("exchange with a name that is missing", do.rename("f", "no", EXCHANGE), "ENOENT"),
        ("exchange of a name that is missing", do.rename("no", "f", EXCHANGE), "ENOENT"),
        ("exchange with one's own parent", do.rename("d/e", "d", EXCHANGE), "EINVAL"),
        ("exchange with one's own child", do.rename("d", "d/e", EXCHANGE), "EINVAL"),
        ("exchange with itself", do.rename("f", "f", EXCHANGE), "ok"),
        ("not to be replaced, onto itself", do.rename("f", "f", NOREPLACE), "EEXIST"),
        ("leaving a whiteout", do.rename("f", "x", WHITEOUT), "ok"),
    ],
)

table.rows(
    "closed/ closed/f closed/~555 unseen/ unseen/f unseen/~666 open/~777 open/f@alice"
    " sticky/~1777 sticky/f@alice sticky/d/@alice ours/~777@alice ours/d/~755 ours/e/~755@alice",
    [
        ("from where one may not write", do.alice.rename("closed/f", "open/x"), "EACCES"),
        ("to where one may not write", do.alice.rename("open/f", "closed/x"), "EACCES"),
        ("from where one may not search", do.alice.rename("unseen/f", "open/x"), "EACCES"),
        ("to where one may not search", do.alice.rename("open/f", "unseen/x"), "EACCES"),
        ("somebody else's where everybody may write", do.bob.rename("open/f", "x"), "ok"),
        ("somebody else's from a sticky directory", do.bob.rename("sticky/f", "x"), "EPERM"),
        ("over somebody else's in a sticky directory", do.bob.rename("open/f", "sticky/f"), "EPERM"),
        ("one's own from a sticky directory", do.alice.rename("sticky/f", "x"), "ok"),
        (
            "exchange with somebody else's in a sticky directory",
            do.bob.rename("open/f", "sticky/f", EXCHANGE),
            "EPERM",
        ),
        (
            "a directory that is not one's own to another parent",
            do.alice.rename("ours/d", "open/d"),
            "EACCES",
        ),
        ("a directory that is not one's own within its parent", do.alice.rename("ours/d", "ours/x"), "ok"),
        ("a directory of one's own to another parent", do.alice.rename("ours/e", "open/e"), "ok"),
        ("as root from where nobody may write", do.rename("closed/f", "x"), "ok"),
    ],
)

table.times(
    "d/ d/f d/e/ o/ o/f o/e/",
    [
        ("times within a directory", do.rename("d/f", "d/x"), {"d": "mc", "d/x": "amc", ".": ""}),
    ],
)


def moved(t: Tree, old: str, new: str, flags: int, *watched: tuple[str, str]) -> dict[str, str]:
    """Which times a rename moves; watched: (path before, path after)."""
    before = t.past_times([path for path, _ in watched])
    t.rename(old, new, flags)
    after = t.times([path for _, path in watched])
    return {
        now: "".join(
            letter for letter, *both in zip("amc", before[was], after[now], strict=True) if both[0] != both[1]
        )
        for was, now in watched
    }


@table.check("times of what moves", given="d/ d/f o/", gives={"o/f": "c", "d": "mc", "o": "mc"})
def _(t: Tree) -> object:
    return moved(t, "d/f", "o/f", 0, ("d/f", "o/f"), ("d", "d"), ("o", "o"))


@table.check("times of a directory that moves", given="d/ d/e/ o/", gives={"o/e": "c", "d": "mc", "o": "mc"})
def _(t: Tree) -> object:
    return moved(t, "d/e", "o/e", 0, ("d/e", "o/e"), ("d", "d"), ("o", "o"))


@table.check("times of what is replaced", given="d/ d/f g+d/h", gives={"d/h": "c", "g": "c", "d": "mc"})
def _(t: Tree) -> object:
    return moved(t, "d/f", "d/h", 0, ("d/f", "d/h"), ("g", "g"), ("d", "d"))


@table.check(
    "times of an exchange", given="d/ d/f o/ o/g", gives={"o/g": "c", "d/f": "c", "d": "mc", "o": "mc"}
)
def _(t: Tree) -> object:
    return moved(t, "d/f", "o/g", EXCHANGE, ("d/f", "o/g"), ("o/g", "d/f"), ("d", "d"), ("o", "o"))


def links(t: Tree, *paths: str) -> list[int]:
    return [t.lstat(path).st_nlink for path in paths]


@table.check("a directory takes its link along", given="d/ d/e/ o/", gives=([3, 2], [2, 3]))
def _(t: Tree) -> object:
    before = links(t, "d", "o")
    t.rename("d/e", "o/e")
    return before, links(t, "d", "o")


@table.check("a directory over a directory elsewhere", given="d/ d/e/ o/ o/e/", gives=([3, 3], [2, 3]))
def _(t: Tree) -> object:
    before = links(t, "d", "o")
    t.rename("d/e", "o/e")
    return before, links(t, "d", "o")


@table.check("a directory over a directory beside it", given="d/ d/e/ d/g/", gives=([4], [3], ["g"]))
def _(t: Tree) -> object:
    before = links(t, "d")
    t.rename("d/e", "d/g")
    return before, links(t, "d"), t.listdir("d")


@table.check("a directory exchanged with a file elsewhere", given="d/ d/e/ o/ o/f", gives=([3, 2], [2, 3]))
def _(t: Tree) -> object:
    before = links(t, "d", "o")
    t.rename("d/e", "o/f", EXCHANGE)
    return before, links(t, "d", "o")


@table.check("a directory's dot dot follows", given="d/ d/e/ o/", gives=True)
def _(t: Tree) -> object:
    t.rename("d/e", "o/e")
    return t.stat("o/e/..").st_ino == t.stat("o").st_ino


@table.check("a file over another name of itself does nothing", given="f+g", gives=(["f", "g"], 2))
def _(t: Tree) -> object:
    t.rename("f", "g")
    return t.listdir(), t.lstat("f").st_nlink


@table.check(
    "a file keeps all it has",
    given="d/ f:4096~640@alice",
    gives=(4096, "640", ("alice", "alice"), b"v", True),
)
def _(t: Tree) -> object:
    t.setxattr("f", "user.a", b"v")
    ino = t.lstat("f").st_ino
    t.rename("f", "d/g")
    at = t.lstat("d/g")
    return at.st_size, t.mode("d/g"), t.owner("d/g"), t.getxattr("d/g", "user.a"), at.st_ino == ino


@table.check("what is replaced lives on while it is open", given="f:1 g:2", gives=(0, 2, 1))
def _(t: Tree) -> object:
    fd = t.opened("g")
    t.rename("f", "g")
    return t.fstat(fd).st_nlink, t.fstat(fd).st_size, t.lstat("g").st_size


@table.check("a directory that is replaced lives on while it is open", given="d/ e/", gives=(0, "ENOENT"))
def _(t: Tree) -> object:
    fd = t.opened("e", 0)
    t.rename("d", "e")
    return t.fstat(fd).st_nlink, t.tries.mkdirat(fd, "x")


@table.check("an exchange swaps exactly the two", given="f:1 d/ d/in", gives=(1, ["in"], True))
def _(t: Tree) -> object:
    inos = t.lstat("f").st_ino, t.lstat("d").st_ino
    t.rename("f", "d", EXCHANGE)
    return t.lstat("d").st_size, t.listdir("f"), inos == (t.lstat("d").st_ino, t.lstat("f").st_ino)


@table.check("a name that was free before is seen at once", given="f", gives=("ENOENT", "ok", "ENOENT"))
def _(t: Tree) -> object:
    free = t.tries.lstat("g")
    t.rename("f", "g")
    return free, t.tries.opens("g"), t.tries.lstat("f")


@table.check("below a directory that moved", given="d/ d/e/ d/e/f o/", gives=("ok", "ENOENT"))
def _(t: Tree) -> object:
    t.opens("d/e/f")
    t.rename("d/e", "o/x")
    return t.tries.opens("o/x/f"), t.tries.opens("d/e/f")


@table.check("into a directory that was removed", given="d/ f", gives="ENOENT")
def _(t: Tree) -> object:
    fd = t.opened("d", os.O_RDONLY)
    t.rmdir("d")
    return t.tries.rename("f", f"/proc/self/fd/{fd}/f")


@table.check("a thousand times back and forth", given="f", gives=["f"])
def _(t: Tree) -> object:
    for _ in range(100):
        t.several([("rename", "f", "g"), ("rename", "g", "h", NOREPLACE), ("rename", "h", "f")])
    return t.listdir()


test_rename = table.test()
