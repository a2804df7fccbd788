"""What the kernel does around a filesystem, and by which it tells FUSE from others."""

from __future__ import annotations

import os

from tests.mount.posix.table import Fd, Table, do
from tests.mount.posix.tree import Tree
from tests.mount.posix.user import SHARED_GROUP

around = Table("kernel")

RO, RW = os.O_RDONLY, os.O_RDWR
ON_INODE, ON_FILESYSTEM = 0, 0x100
FAN_CREATE, FAN_OPEN, FAN_ONDIR = 0x100, 0x20, 0x40000000

around.rows(
    "d/ f:100 p| lower/ other/ merged/",
    [
        ("a file in a queue of events", do.epolls(Fd("f")), "EPERM"),
        ("a directory in a queue of events", do.epolls(Fd("d", RO)), "EPERM"),
        ("a pipe in a queue of events", do.epolls(Fd("p", RW | os.O_NONBLOCK)), "ok"),
        ("data in a directory", do.lseek(Fd("d", RO), 0, os.SEEK_DATA), "EINVAL"),
        ("when a file was born", do.birth_is_known("f"), True),
        ("the flags of a file", do.flags_of(Fd("f")), 0),
        ("the flags of a directory", do.flags_of(Fd("d", RO)), 0),
        ("sealing a file", do.seals(Fd("f")), "EPERM"),
        ("a watch on a directory", do.watches("d", ON_INODE, FAN_CREATE | FAN_ONDIR), "ok"),
        ("a watch on a file", do.watches("f", ON_INODE, FAN_OPEN), "ok"),
        ("a watch on all of it", do.watches(".", ON_FILESYSTEM, FAN_CREATE | FAN_ONDIR), "ok"),
        ("a view with other owners", do.maps_owners("d"), "ok"),
        ("the lower layers of an overlay", do.layers("merged", "lowerdir=lower:other"), "ok"),
    ],
)


@around.check("the upper layer of an overlay", given="lower/ upper/ work/ merged/", gives="ok")
def _(t: Tree) -> object:
    return t.tries.layers("merged", "lowerdir=lower,upperdir=upper,workdir=work")


@around.check("memory behind the end, beyond the process's file size limit", given="f:100", gives="EFBIG")
def _(t: Tree) -> object:
    fd = t.opened("f")
    t.file_size_limit(4096)
    said = t.tries.fallocate(fd, 1, 0, 8192)
    t.file_size_limit(-1)
    return said


# -- who sets a size takes the setuid and setgid bits, if he is neither root nor, for setgid, of the group ---

SIZES = {
    "truncate": ("truncate", "f", 50),
    "O_TRUNC": ("opens", "f", RW | os.O_TRUNC),
    "fallocate": ("fallocates", "f", 0, 0, 200),
    "a hole": ("fallocates", "f", 3, 0, 50),
}
MODES = (
    # before, what is left by one of the group, by somebody else, by root
    ("a file the group may run", 0o6777, "777", "777", "6777"),
    ("a file only others may run", 0o6767, "2767", "767", "6767"),
)

for how, step in SIZES.items():
    for what, before, mates, bobs, roots in MODES:
        for who, gives in (("mate", mates), ("bob", bobs), ("root", roots)):

            @around.check(f"bits of {what} after {how} by {who}", given="f:100", gives=gives)
            def _(t: Tree, step: tuple[object, ...] = step, before: int = before, who: str = who) -> object:
                t.chown("f", 0, SHARED_GROUP)
                t.chmod("f", before)
                t.hands(who).several([step])
                return t.mode("f")


test_around = around.test()
