"""flock(2), fcntl(2) locks, leases, inotify(7): what the kernel keeps beside the filesystem."""

from __future__ import annotations

import fcntl
import os

from tests.mount.posix.table import Table
from tests.mount.posix.tree import Tree

locks = Table("locks")

SH, EX, UN = fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN
READ, WRITE, UNLOCK = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
RW, RO = os.O_RDWR, os.O_RDONLY


@locks.check("flock excludes", given="f~666", gives=("ok", "EAGAIN", "EAGAIN", "ok", "ok"))
def _(t: Tree) -> object:
    mine, alices = t.opened("f"), t.alice.open("f", RW)
    first = t.tries.flock(mine, EX)
    shut = t.alice.tries.flock(alices, EX), t.alice.tries.flock(alices, SH)
    return first, *shut, t.tries.flock(mine, UN), t.alice.tries.flock(alices, EX)


@locks.check("flock shares", given="f~666", gives=("ok", "ok", "EAGAIN"))
def _(t: Tree) -> object:
    mine, alices = t.opened("f"), t.alice.open("f", RW)
    return t.tries.flock(mine, SH), t.alice.tries.flock(alices, SH), t.alice.tries.flock(alices, EX)


@locks.check("flock goes with its last descriptor", given="f~666", gives=("EAGAIN", "ok"))
def _(t: Tree) -> object:
    mine, alices = t.opened("f"), t.alice.open("f", RW)
    copy = t.dup(mine)
    t.flock(mine, EX)
    t.close(mine)
    held = t.alice.tries.flock(alices, EX)
    t.close(copy)
    return held, t.alice.tries.flock(alices, EX)


@locks.check("flock by two opens of one process", given="f", gives=("ok", "EAGAIN"))
def _(t: Tree) -> object:
    return t.tries.flock(t.opened("f"), EX), t.tries.flock(t.opened("f"), EX)


@locks.check("flock of a directory", given="d/", gives=("ok", "EAGAIN"))
def _(t: Tree) -> object:
    return t.tries.flock(t.opened("d", RO), EX), t.alice.tries.flock(t.alice.open("d", RO), EX)


@locks.check("record locks exclude by range", given="f:1000~666", gives=("ok", "EAGAIN", "ok", "EAGAIN"))
def _(t: Tree) -> object:
    mine, alices = t.opened("f"), t.alice.open("f", RW)
    return (
        t.tries.lock(mine, WRITE, 100, 100),
        t.alice.tries.lock(alices, WRITE, 150, 10),
        t.alice.tries.lock(alices, WRITE, 200, 10),
        t.alice.tries.lock(alices, READ, 0, 0),
    )


@locks.check("record locks can be asked for", given="f:1000~666", gives=(WRITE, True, UNLOCK))
def _(t: Tree) -> object:
    mine, alices = t.opened("f"), t.alice.open("f", RW)
    t.lock(mine, WRITE, 0, 0)
    kind, owner = t.alice.lock_holder(alices, WRITE)
    t.lock(mine, UNLOCK, 0, 0)
    return kind, owner == t.pid(), t.alice.lock_holder(alices, WRITE)[0]


@locks.check("record locks go with any descriptor of the process", given="f:1000~666", gives=("EAGAIN", "ok"))
def _(t: Tree) -> object:
    mine, other, alices = t.opened("f"), t.opened("f"), t.alice.open("f", RW)
    t.lock(mine, WRITE)
    held = t.alice.tries.lock(alices, WRITE)
    t.close(other)
    return held, t.alice.tries.lock(alices, WRITE)


@locks.check("record locks want a descriptor that may", given="f", gives=("EBADF", "EBADF", "ok"))
def _(t: Tree) -> object:
    return (
        t.tries.lock(t.opened("f", RO), WRITE),
        t.tries.lock(t.opened("f", os.O_WRONLY), READ),
        t.tries.lock(t.opened("f", RO), READ),
    )


@locks.check("locks of descriptions", given="f:1000", gives=("ok", "EAGAIN", "ok"))
def _(t: Tree) -> object:
    first, second = t.opened("f"), t.opened("f")
    return (
        t.tries.lock(first, WRITE, ofd=True),
        t.tries.lock(second, WRITE, ofd=True),
        t.tries.lock(t.dup(first), WRITE, ofd=True),
    )


@locks.check("a read lease of a file that nobody writes", given="f", gives=("ok", "EAGAIN"))
def _(t: Tree) -> object:
    said = t.tries.lease(t.opened("f", RO), READ)
    return said, t.tries.lease(t.opened("f", RO), WRITE)


# -- inotify ----------------------------------------------------------------------------------------

inotify = Table("inotify")

CREATE, DELETE, MODIFY, ATTRIB = 0x100, 0x200, 0x2, 0x4
MOVED_FROM, MOVED_TO, OPEN, CLOSE_WRITE, DELETE_SELF, IGNORED = 0x40, 0x80, 0x20, 0x8, 0x400, 0x8000
ISDIR = 0x40000000
ALL = 0xFFF

for title, given, steps, gives in (
    ("creating", "d/", [("mknod", "d/x")], [(CREATE, b"x")]),
    ("making a directory", "d/", [("mkdir", "d/x")], [(CREATE | ISDIR, b"x")]),
    ("removing", "d/ d/x", [("unlink", "d/x")], [(DELETE, b"x")]),
    ("removing a directory", "d/ d/x/", [("rmdir", "d/x")], [(DELETE | ISDIR, b"x")]),
    ("renaming", "d/ d/x", [("rename", "d/x", "d/y")], [(MOVED_FROM, b"x"), (MOVED_TO, b"y")]),
    ("linking", "d/ f", [("link", "f", "d/x")], [(CREATE, b"x")]),
    ("a symlink", "d/", [("symlink", "t", "d/x")], [(CREATE, b"x")]),
    ("chmod", "d/ d/x", [("chmod", "d/x", 0o600)], [(ATTRIB, b"x")]),
    ("truncating", "d/ d/x:100", [("truncate", "d/x", 50)], [(MODIFY, b"x")]),
    ("an attribute", "d/ d/x", [("setxattr", "d/x", "user.a", b"v")], [(ATTRIB, b"x")]),
    ("opening and closing", "d/ d/x", [("opens", "d/x", RW)], [(OPEN, b"x"), (CLOSE_WRITE, b"x")]),
):

    @inotify.check(title, given=given, gives=gives)
    def _(t: Tree, steps: list[tuple[object, ...]] = steps) -> object:
        watch = t.inotify("d", ALL)
        t.alice.umask(0)
        t.several(steps)
        return t.inotify_events(watch)


@inotify.check("what another user does", given="d/~777", gives=[(CREATE, b"x")])
def _(t: Tree) -> object:
    watch = t.inotify("d", CREATE | DELETE)
    t.alice.mknod("d/x")
    return t.inotify_events(watch)


@inotify.check("the file itself", given="f", gives=[ATTRIB, DELETE_SELF, IGNORED])
def _(t: Tree) -> object:
    watch = t.inotify("f", ALL)
    t.chmod("f", 0o600)
    t.unlink("f")
    return [mask for mask, _ in t.inotify_events(watch)]


test_locks = locks.test()
test_inotify = inotify.test()
