"""read(2), write(2) and all their kin: refused by the mount, and nothing is changed.

The control does what every filesystem does, so each of these is a difference; what is held here is that
the answer is EINVAL, always, and that neither the file nor the other side of the call changed.
"""

from __future__ import annotations

import mmap
import os

from tests.mount.posix.differences import DATA_CALLS
from tests.mount.posix.table import Fd, Table, do
from tests.mount.posix.tree import Tree

table = Table("data")

SHARED, BOTH = mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE


def kept(t: Tree, name: str, *args: object, flags: int = os.O_RDWR) -> object:
    """A call on an open file of 8192 bytes: its answer, and whether bytes, size, memory and times stayed."""
    fd = t.opened("f")
    mapping = t.mmap(fd, 8192, BOTH, SHARED)
    t.poke(mapping, 0, b"guest " * 1000)
    before, bytes_before = t.fstat(fd), t.peek(mapping, 0, 8192)
    t.close(fd)
    answer = getattr(t.tries, name)(t.opened("f", flags), *args)
    answer = len(answer) if isinstance(answer, bytes) else answer
    after = t.stat("f")
    figures = ("st_size", "st_blocks", "st_mtime_ns", "st_ctime_ns")
    same = all(getattr(before, each) == getattr(after, each) for each in figures)
    return answer, same and t.peek(mapping, 0, 8192) == bytes_before


for title, name, args, gives in DATA_CALLS:

    @table.check(title, given="f:8192", gives=gives)
    def _(t: Tree, name: str = name, args: tuple[object, ...] = args) -> object:
        return kept(t, name, *args)


table.rows(
    "d/ f:8192",
    [
        ("read of a directory", do.read(Fd("d", os.O_RDONLY), 10), "EISDIR"),
        ("read of a file open for writing only", do.read(Fd("f", os.O_WRONLY), 10), "EBADF"),
        ("write to a file open for reading only", do.write(Fd("f", os.O_RDONLY), b"x"), "EBADF"),
        ("pread before the start", do.pread(Fd("f"), 10, -1), "EINVAL"),
        ("write of nothing", do.write(Fd("f"), b""), 0),
        ("read of nothing", do.read(Fd("f"), 0), b""),
        ("clone into itself", do.clone(Fd("f"), Fd("f")), "EOPNOTSUPP"),
        ("fsync", do.fsync(Fd("f")), "ok"),
        ("fsync of a file open for reading only", do.fsync(Fd("f", os.O_RDONLY)), "ok"),
        ("fdatasync", do.fdatasync(Fd("f")), "ok"),
        ("fsync of a directory", do.fsync(Fd("d", os.O_RDONLY)), "ok"),
        ("fdatasync of a directory", do.fdatasync(Fd("d", os.O_RDONLY)), "ok"),
        ("syncfs", do.syncfs(Fd("f")), "ok"),
        ("fsync of an O_PATH descriptor", do.fsync(Fd("f", os.O_PATH)), "EBADF"),
        ("an ioctl that does not exist", do.ioctl(Fd("f"), 0x12345), "ENOTTY"),
        ("poll", do.polls(Fd("f")), 5),
    ],
)


@table.check("read of an empty file", given="f", gives=b"")
def _(t: Tree) -> object:
    return t.tries.read(t.opened("f"), 10)


@table.check("append", given="f", gives=(3, 3))
def _(t: Tree) -> object:
    said = t.tries.write(t.opened("f", os.O_WRONLY | os.O_APPEND), b"abc")
    return said, t.lstat("f").st_size


@table.check("copy_file_range from another filesystem", given="f:8192", gives=("EXDEV", True))
def _(t: Tree) -> object:
    return kept(t, "copy_into")


@table.check("copy between two files of the mount", given="f:8192 g:8192", gives=4)
def _(t: Tree) -> object:
    return t.tries.copy_file_range(t.opened("f"), t.opened("g"))


@table.check("a file sent to another of the mount", given="f:8192 g:8192", gives=4)
def _(t: Tree) -> object:
    return t.tries.sendfile_between(t.opened("f"), t.opened("g"))


@table.check("a write takes the setuid bit", given="f:100@alice", gives=("777", 4))
def _(t: Tree) -> object:
    t.chmod("f", 0o6777)
    said = t.bob.tries.write(t.bob.open("f", os.O_WRONLY), b"data")
    return t.mode("f"), said


test_data = table.test()
