"""lseek(2), with SEEK_DATA and SEEK_HOLE."""

from __future__ import annotations

import mmap
import os

from tests.mount.posix.table import Fd, Table, do
from tests.mount.posix.tree import Tree

table = Table("lseek")

MIB = 1 << 20
DATA, HOLE = os.SEEK_DATA, os.SEEK_HOLE
SHARED, BOTH = mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE
F = Fd("f")

table.rows(
    "d/ f:10000 empty p|",
    [
        ("from the start", do.lseek(F, 123, os.SEEK_SET), 123),
        ("from the end", do.lseek(F, 0, os.SEEK_END), 10000),
        ("before the end", do.lseek(F, -10, os.SEEK_END), 9990),
        ("behind the end", do.lseek(F, 20000, os.SEEK_SET), 20000),
        ("from here", do.lseek(F, 7, os.SEEK_CUR), 7),
        ("before the start", do.lseek(F, -1, os.SEEK_SET), "EINVAL"),
        ("before the start from the end", do.lseek(F, -10001, os.SEEK_END), "EINVAL"),
        ("a whence that does not exist", do.lseek(F, 0, 9), "EINVAL"),
        ("a pipe", do.lseek(Fd("p", os.O_RDWR | os.O_NONBLOCK), 0, os.SEEK_SET), "ESPIPE"),
        ("an O_PATH descriptor", do.lseek(Fd("f", os.O_PATH), 0, os.SEEK_SET), "EBADF"),
        ("a directory to its start", do.lseek(Fd("d", os.O_RDONLY), 0, os.SEEK_SET), 0),
        ("the end of an empty file", do.lseek(Fd("empty"), 0, os.SEEK_END), 0),
        ("data behind the end", do.lseek(F, 10000, DATA), "ENXIO"),
        ("a hole behind the end", do.lseek(F, 10000, HOLE), "ENXIO"),
        ("data before the start", do.lseek(F, -1, DATA), "ENXIO"),
        ("data in an empty file", do.lseek(Fd("empty"), 0, DATA), "ENXIO"),
        ("a hole in an empty file", do.lseek(Fd("empty"), 0, HOLE), "ENXIO"),
    ],
)


def filled(t: Tree, size: int) -> int:
    """An open file all of whose pages were written."""
    fd = t.opened("f", os.O_RDWR | os.O_CREAT)
    t.ftruncate(fd, size)
    mapping = t.mmap(fd, size, BOTH, SHARED)
    t.poke(mapping, 0, b"x" * size)
    t.munmap(mapping)
    return int(fd)


@table.check("data and hole in a full file", gives=(0, 5000, 4 * MIB, 4 * MIB))
def _(t: Tree) -> object:
    fd = filled(t, 4 * MIB)
    return t.lseek(fd, 0, DATA), t.lseek(fd, 5000, DATA), t.lseek(fd, 0, HOLE), t.lseek(fd, 4 * MIB - 1, HOLE)


@table.check("around a hole", gives=(2 * MIB, 4 * MIB, 0, 2 * MIB, 6 * MIB))
def _(t: Tree) -> object:
    fd = filled(t, 6 * MIB)
    t.fallocate(fd, 3, 2 * MIB, 2 * MIB)
    return (
        t.lseek(fd, 0, HOLE),
        t.lseek(fd, 2 * MIB, DATA),
        t.lseek(fd, 0, DATA),
        t.lseek(fd, 2 * MIB, HOLE),
        t.lseek(fd, 4 * MIB, HOLE),
    )


@table.check("data behind the last data", gives=("ENXIO", 2 * MIB))
def _(t: Tree) -> object:
    fd = filled(t, 4 * MIB)
    t.fallocate(fd, 3, 2 * MIB, 2 * MIB)
    return t.tries.lseek(fd, 3 * MIB, DATA), t.lseek(fd, 0, HOLE)


@table.check("each description has its own place", given="f:100", gives=(10, 20, 20))
def _(t: Tree) -> object:
    first, second = t.opened("f"), t.opened("f")
    t.lseek(first, 10, os.SEEK_SET)
    t.lseek(second, 20, os.SEEK_SET)
    return (
        t.lseek(first, 0, os.SEEK_CUR),
        t.lseek(second, 0, os.SEEK_CUR),
        t.lseek(t.dup(second), 0, os.SEEK_CUR),
    )


@table.check("the end moves with the size", given="f:100", gives=(100, 8192, 50))
def _(t: Tree) -> object:
    fd = t.opened("f")
    first = t.lseek(fd, 0, os.SEEK_END)
    t.truncate("f", 8192)
    second = t.lseek(fd, 0, os.SEEK_END)
    t.truncate("f", 50)
    return first, second, t.lseek(fd, 0, os.SEEK_END)


test_lseek = table.test()
