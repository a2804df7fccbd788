"""chown(2), lchown(2), fchown(2)."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from tests.mount.posix.names import TOO_LONG_NAME, TOO_LONG_PATH
from tests.mount.posix.table import Fd, Table, do
from tests.mount.posix.tree import Tree
from tests.mount.posix.user import ALICE, BOB, SHARED_GROUP

table = Table("chown")

A, B, G = ALICE.uid, BOB.uid, SHARED_GROUP

table.rows(
    "d/ f p| s= l->f dangling->no loop->loop unseen/ unseen/f@alice unseen/~666 alices@alice",
    [
        ("a file", do.chown("f", A, G), "ok"),
        ("a directory", do.chown("d", A, G), "ok"),
        ("a pipe", do.chown("p", A, G), "ok"),
        ("a socket", do.chown("s", A, G), "ok"),
        ("through a symlink", do.chown("l", A, G), "ok"),
        ("a symlink itself", do.lchown("dangling", A, G), "ok"),
        ("nothing of it", do.chown("f", -1, -1), "ok"),
        ("a name that is missing", do.chown("no", A, G), "ENOENT"),
        ("the empty name", do.chown("", A, G), "ENOENT"),
        ("through a dangling symlink", do.chown("dangling", A, G), "ENOENT"),
        ("through a looping symlink", do.chown("loop", A, G), "ELOOP"),
        ("below a file", do.chown("f/x", A, G), "ENOTDIR"),
        ("a name that is too long", do.chown(TOO_LONG_NAME, A, G), "ENAMETOOLONG"),
        ("a path that is too long", do.chown(TOO_LONG_PATH, A, G), "ENAMETOOLONG"),
        ("to somebody else by the owner", do.alice.chown("alices", B, -1), "EPERM"),
        ("to oneself by the owner", do.alice.chown("alices", A, -1), "ok"),
        ("to a group of one's own", do.alice.chown("alices", -1, G), "ok"),
        ("to a group of somebody else's", do.alice.chown("alices", -1, BOB.gid), "EPERM"),
        ("to oneself by somebody else", do.bob.chown("alices", B, -1), "EPERM"),
        ("nothing of it by somebody else", do.bob.chown("alices", -1, -1), "ok"),
        ("where one may not search", do.alice.chown("unseen/f", A, G), "EACCES"),
        ("an open file", do.fchown(Fd("f", os.O_RDONLY), A, G), "ok"),
        ("an O_PATH descriptor", do.fchown(Fd("f", os.O_PATH), A, G), "EBADF"),
    ],
)

table.times(
    "d/ d/f",
    [
        ("times", do.chown("d/f", A, G), {"d/f": "c", "d": ""}),
        ("times of a group only", do.chown("d/f", -1, G), {"d/f": "c"}),
    ],
)

for uid, gid, gives in (
    (A, G, (A, G)),
    (A, -1, (A, 0)),
    (-1, G, (0, G)),
    (2**32 - 2, 2**32 - 2, (2**32 - 2,) * 2),
):

    @table.check(f"to {uid}:{gid}", given="f", gives=gives)
    def _(t: Tree, uid: int = uid, gid: int = gid) -> object:
        t.chown("f", uid, gid)
        at = t.lstat("f")
        return at.st_uid, at.st_gid


for kind, before, by_owner, by_root in (
    ("f", 0o6755, "755", "755"),
    ("f", 0o6644, "2644", "2644"),
    ("d/", 0o6755, "6755", "6755"),
):
    for who, gives in (("alice", by_owner), ("root", by_root)):

        @table.check(
            f"of a {'file' if kind == 'f' else 'directory'} of mode {before:o} by {who}", gives=gives
        )
        def _(t: Tree, kind: str = kind, before: int = before, who: str = who) -> object:
            t.mkdir("x") if kind == "d/" else t.mknod("x")
            t.chown("x", A, G)
            t.chmod("x", before)
            t.hands(who).chown("x", -1, ALICE.gid)
            return t.mode("x")


KINDS = {
    "file": lambda t: t.mknod("x"),
    "directory": lambda t: t.mkdir("x"),
    "pipe": lambda t: t.mknod("x", stat.S_IFIFO | 0o644),
    "socket": lambda t: t.mknod("x", stat.S_IFSOCK | 0o644),
    "character device": lambda t: t.mknod("x", stat.S_IFCHR | 0o644, os.makedev(1, 3)),
    "block device": lambda t: t.mknod("x", stat.S_IFBLK | 0o644, os.makedev(8, 1)),
}

for kind, make in KINDS.items():
    after = "6555" if kind == "directory" else "555"

    @table.check(f"of a {kind} with all bits", gives=("6555", after, after, (A, ALICE.gid), "6555", "600"))
    def _(t: Tree, make: Callable[[Tree], object] = make) -> object:
        make(t)
        t.chown("x", A, G)
        t.chmod("x", 0o6555)
        modes = [t.mode("x")]
        t.alice.chown("x", -1, ALICE.gid)
        modes.append(t.mode("x"))
        t.alice.lchown("x", A, -1)
        modes.append(t.mode("x"))
        at = t.lstat("x")
        t.chown("x", A, G)
        t.alice.chmod("x", 0o6555)
        modes.append(t.mode("x"))
        t.alice.chmod("x", 0o600)
        return *modes[:3], (at.st_uid, at.st_gid), modes[3], t.mode("x")

    @table.check(f"of a {kind}: times", gives=("c", "c"))
    def _(t: Tree, make: Callable[[Tree], object] = make) -> object:
        make(t)
        moved = []
        for call in (lambda: t.chown("x", A, G), lambda: t.alice.chmod("x", 0o640)):
            before = t.past_times(["x"])["x"]
            call()
            after = t.times(["x"])["x"]
            moved.append(
                "".join(each for each, was, now in zip("amc", before, after, strict=True) if was != now)
            )
        return tuple(moved)


@table.check("takes effect at once", given="f~600", gives=("EACCES", "ok"))
def _(t: Tree) -> object:
    before = t.alice.tries.opens("f")
    t.chown("f", A, -1)
    return before, t.alice.tries.opens("f")


@table.check("shows by every name", given="f+g", gives=("alice", "root"))
def _(t: Tree) -> object:
    t.chown("f", A, -1)
    return t.owner("g")


@table.check("of an unlinked file", given="f", gives=("ok", A))
def _(t: Tree) -> object:
    fd = t.opened("f")
    t.unlink("f")
    return t.tries.fchown(fd, A, -1), t.fstat(fd).st_uid


@table.check("nothing of it by the owner takes the setuid bit", given="f@alice", gives="755")
def _(t: Tree) -> object:
    t.chmod("f", 0o4755)
    t.alice.chown("f", -1, -1)
    return t.mode("f")


test_chown = table.test()
