"""chmod(2), fchmod(2)."""

from __future__ import annotations

import os

from tests.mount.posix.names import TOO_LONG_NAME, TOO_LONG_PATH
from tests.mount.posix.table import Fd, Table, do
from tests.mount.posix.tree import Tree
from tests.mount.posix.user import ALICE, BOB, SHARED_GROUP

table = Table("chmod")

table.rows(
    "d/ f p| s= l->f dangling->no loop->loop unseen/ unseen/f@alice unseen/~666 alices@alice",
    [
        ("a file", do.chmod("f", 0o600), "ok"),
        ("a directory", do.chmod("d", 0o700), "ok"),
        ("a pipe", do.chmod("p", 0o600), "ok"),
        ("a socket", do.chmod("s", 0o600), "ok"),
        ("through a symlink", do.chmod("l", 0o600), "ok"),
        ("a name that is missing", do.chmod("no", 0o600), "ENOENT"),
        ("the empty name", do.chmod("", 0o600), "ENOENT"),
        ("through a dangling symlink", do.chmod("dangling", 0o600), "ENOENT"),
        ("through a looping symlink", do.chmod("loop", 0o600), "ELOOP"),
        ("below a file", do.chmod("f/x", 0o600), "ENOTDIR"),
        ("a name that is too long", do.chmod(TOO_LONG_NAME, 0o600), "ENAMETOOLONG"),
        ("a path that is too long", do.chmod(TOO_LONG_PATH, 0o600), "ENAMETOOLONG"),
        ("by somebody who is not the owner", do.bob.chmod("alices", 0o600), "EPERM"),
        ("by the owner", do.alice.chmod("alices", 0o600), "ok"),
        ("by root what is somebody else's", do.chmod("alices", 0o600), "ok"),
        ("where one may not search", do.alice.chmod("unseen/f", 0o600), "EACCES"),
        ("an open file", do.fchmod(Fd("f", os.O_RDONLY), 0o600), "ok"),
        ("an open directory", do.fchmod(Fd("d", os.O_RDONLY), 0o700), "ok"),
        ("an O_PATH descriptor", do.fchmod(Fd("f", os.O_PATH), 0o600), "EBADF"),
        ("somebody else's open file", do.bob.fchmod(Fd("alices", os.O_RDONLY), 0o600), "EPERM"),
    ],
)

table.times(
    "d/ d/f",
    [
        ("times", do.chmod("d/f", 0o600), {"d/f": "c", "d": ""}),
        ("times of setting what is set", do.chmod("d/f", 0o644), {"d/f": "c", "d": ""}),
        ("times of a directory", do.chmod("d", 0o700), {"d": "c"}),
    ],
)

for mode in (0o000, 0o777, 0o1000, 0o2000, 0o4000, 0o7777, 0o2755, 0o4711):
    for name in ("f", "d"):

        @table.check(
            f"{mode:o} of a {'file' if name == 'f' else 'directory'}", given="f d/", gives=f"{mode:o}"
        )
        def _(t: Tree, name: str = name, mode: int = mode) -> object:
            t.chmod(name, mode)
            return t.mode(name)


@table.check("the type does not change", given="f d/", gives=("100600", "40700"))
def _(t: Tree) -> object:
    t.chmod("f", 0o040600)
    t.chmod("d", 0o100700)
    return f"{t.lstat('f').st_mode:o}", f"{t.lstat('d').st_mode:o}"


@table.check("setgid by an owner outside the group", given="f@alice d/@alice", gives=("755", "755"))
def _(t: Tree) -> object:
    for name in ("f", "d"):
        t.chown(name, ALICE.uid, BOB.gid)
        t.alice.chmod(name, 0o2755)
    return t.mode("f"), t.mode("d")


@table.check("setgid by an owner inside the group", given="f@alice d/@alice", gives=("2755", "2755"))
def _(t: Tree) -> object:
    for name in ("f", "d"):
        t.chown(name, ALICE.uid, SHARED_GROUP)
        t.alice.chmod(name, 0o2755)
    return t.mode("f"), t.mode("d")


@table.check("sticky on a file by a user", given="f@alice", gives=("ok", "1644"))
def _(t: Tree) -> object:
    return t.alice.tries.chmod("f", 0o1644), t.mode("f")


@table.check("takes effect at once for others", given="f~600", gives=("EACCES", "ok", "EACCES"))
def _(t: Tree) -> object:
    before = t.alice.tries.opens("f")
    t.chmod("f", 0o644)
    after = t.alice.tries.opens("f")
    t.chmod("f", 0o600)
    return before, after, t.alice.tries.opens("f")


@table.check("of a directory takes effect at once for others", given="d/ d/f", gives=("ok", "EACCES", "ok"))
def _(t: Tree) -> object:
    before = t.alice.tries.stat("d/f") != "EACCES" and "ok"
    t.chmod("d", 0o700)
    during = t.alice.tries.stat("d/f")
    t.chmod("d", 0o755)
    return before, during, t.alice.tries.opens("d/f")


@table.check("an open descriptor keeps its rights", given="f:4096~666", gives=("ok", 8192))
def _(t: Tree) -> object:
    fd = t.alice.open("f", os.O_RDWR)
    t.chmod("f", 0o000)
    return t.alice.tries.ftruncate(fd, 8192), t.lstat("f").st_size


@table.check("shows by every name", given="f+g", gives="600")
def _(t: Tree) -> object:
    t.chmod("f", 0o600)
    return t.mode("g")


test_chmod = table.test()
