"""utimensat(2), futimens(3): times to the nanosecond."""

from __future__ import annotations

import os

from tests.mount.posix.calls.attributes import UTIME_NOW, UTIME_OMIT
from tests.mount.posix.names import TOO_LONG_NAME
from tests.mount.posix.table import Fd, Table, do
from tests.mount.posix.tree import Tree

table = Table("utimensat")

SOME = (1_234_567_890_123_456_789, 987_654_321_987_654_321)
NOW, OMIT = (0, UTIME_NOW), (0, UTIME_OMIT)

table.rows(
    "d/ f~666 p| l->f dangling->no loop->loop closed~444 unseen/ unseen/f@alice unseen/~666 alices~600@alice",
    [
        ("a file", do.utimens("f", SOME), "ok"),
        ("a directory", do.utimens("d", SOME), "ok"),
        ("a pipe", do.utimens("p", SOME), "ok"),
        ("through a symlink", do.utimens("l", SOME), "ok"),
        ("a symlink itself", do.utimens("dangling", SOME, False), "ok"),
        ("a name that is missing", do.utimens("no", SOME), "ENOENT"),
        ("through a looping symlink", do.utimens("loop", SOME), "ELOOP"),
        ("below a file", do.utimens("f/x", SOME), "ENOTDIR"),
        ("a name that is too long", do.utimens(TOO_LONG_NAME, SOME), "ENAMETOOLONG"),
        ("to some time by the owner", do.alice.utimens("alices", SOME), "ok"),
        ("to some time by somebody who may write", do.alice.utimens("f", SOME), "EPERM"),
        ("to now by somebody who may write", do.alice.utimens("f", None), "ok"),
        ("to now by somebody who may only read", do.alice.utimens("closed", None), "EACCES"),
        ("to some time by somebody who may only read", do.alice.utimens("closed", SOME), "EPERM"),
        ("nothing of it by somebody", do.alice.utimensat("closed", OMIT, OMIT), "ok"),
        ("one to now, one as it is, by somebody who may write", do.alice.utimensat("f", NOW, OMIT), "EPERM"),
        ("both to now by somebody who may write", do.alice.utimensat("f", NOW, NOW), "ok"),
        ("nanoseconds that do not exist", do.utimensat("f", (0, 10**9), NOW), "EINVAL"),
        ("negative nanoseconds", do.utimensat("f", NOW, (0, -1)), "EINVAL"),
        ("where one may not search", do.alice.utimens("unseen/f", SOME), "EACCES"),
        ("an open file", do.futimens(Fd("f", os.O_RDONLY), *SOME), "ok"),
    ],
)

table.times(
    "d/ d/f",
    [
        ("times of setting both", do.utimens("d/f", SOME), {"d/f": "amc", "d": ""}),
        ("times of setting the access time", do.utimensat("d/f", (5, 5), OMIT), {"d/f": "ac"}),
        ("times of setting the modification time", do.utimensat("d/f", OMIT, (5, 5)), {"d/f": "mc"}),
        ("times of setting nothing", do.utimensat("d/f", OMIT, OMIT), {"d/f": ""}),
        ("times of setting now", do.utimens("d/f", None), {"d/f": "amc"}),
    ],
)

for title, seconds in (
    ("the epoch", (0, 0)),
    ("before the epoch", (-1, 999_999_999)),
    ("long before the epoch", (-2_000_000_000, 1)),
    ("after 2038", (2**31 + 5, 7)),
    ("after 2106", (2**32 + 5, 7)),
    ("the last nanosecond of a second", (1_000_000_000, 999_999_999)),
    ("the year 2500", (16_725_225_600, 123_456_789)),
):

    @table.check(f"to {title}", given="f", gives=(seconds, seconds))
    def _(t: Tree, seconds: tuple[int, int] = seconds) -> object:
        t.utimensat("f", seconds, seconds)
        at = t.lstat("f")
        return divmod(at.st_atime_ns, 10**9), divmod(at.st_mtime_ns, 10**9)


@table.check("access and modification time are two", given="f", gives=SOME)
def _(t: Tree) -> object:
    t.utimens("f", SOME)
    at = t.lstat("f")
    return at.st_atime_ns, at.st_mtime_ns


@table.check("one is left as it is", given="f", gives=((5, 6), (7, 8), (5, 6), (9, 10)))
def _(t: Tree) -> object:
    t.utimensat("f", (5, 6), (7, 8))
    first = t.lstat("f")
    t.utimensat("f", OMIT, (9, 10))
    second = t.lstat("f")
    return tuple(
        divmod(time_ns, 10**9)
        for time_ns in (first.st_atime_ns, first.st_mtime_ns, second.st_atime_ns, second.st_mtime_ns)
    )


@table.check("now is between before and after", given="f", gives=True)
def _(t: Tree) -> object:
    t.utimens("f", (0, 0))
    t.mknod("before")
    t.past_times(["f"])
    t.utimensat("f", NOW, NOW)
    t.past_times(["before"])
    t.mknod("after")
    now = t.lstat("f").st_mtime_ns
    return (
        t.lstat("before").st_ctime_ns and t.lstat("after").st_ctime_ns >= now > t.lstat("before").st_mtime_ns
    )


@table.check("now is not before what was made a moment ago", gives=0)
def _(t: Tree) -> object:
    """The kernel's coarse clock and the daemon's took turns: a file touched right away became older."""
    older = 0
    for number in range(20):
        t.mknod(f"f{number}")
        made = t.lstat(f"f{number}").st_mtime_ns
        t.utimensat(f"f{number}", NOW, NOW)
        older += t.lstat(f"f{number}").st_mtime_ns < made
    return older


@table.check("of a directory survives being listed", given="d/ d/f", gives=SOME[1])
def _(t: Tree) -> object:
    t.utimens("d", SOME)
    t.listdir("d")
    t.stat("d/f")
    return t.lstat("d").st_mtime_ns


test_utimensat = table.test()
