"""truncate(2), ftruncate(2): sizes to the byte."""

from __future__ import annotations

import mmap
import os

from tests.mount.posix.names import TOO_LONG_NAME, TOO_LONG_PATH
from tests.mount.posix.table import Fd, Table, do
from tests.mount.posix.tree import Tree

table = Table("truncate")

MIB = 1 << 20
R, W, RW = os.O_RDONLY, os.O_WRONLY, os.O_RDWR
SHARED, BOTH = mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE

table.rows(
    "d/ f:10000 empty p| s= l->f dangling->no loop->loop to-d->d",
    [
        ("to nothing", do.truncate("f", 0), "ok"),
        ("to less", do.truncate("f", 9999), "ok"),
        ("to the same", do.truncate("f", 10000), "ok"),
        ("to more", do.truncate("f", 10001), "ok"),
        ("to a negative size", do.truncate("f", -1), "EINVAL"),
        ("a directory", do.truncate("d", 0), "EISDIR"),
        ("a directory through a symlink", do.truncate("to-d", 0), "EISDIR"),
        ("a pipe", do.truncate("p", 0), "EINVAL"),
        ("a socket", do.truncate("s", 0), "EINVAL"),
        ("through a symlink", do.truncate("l", 5), "ok"),
        ("a name that is missing", do.truncate("no", 0), "ENOENT"),
        ("the empty name", do.truncate("", 0), "ENOENT"),
        ("through a dangling symlink", do.truncate("dangling", 0), "ENOENT"),
        ("through a looping symlink", do.truncate("loop", 0), "ELOOP"),
        ("below a file", do.truncate("f/x", 0), "ENOTDIR"),
        ("a file with a trailing slash", do.truncate("f/", 0), "ENOTDIR"),
        ("a name that is too long", do.truncate(TOO_LONG_NAME, 0), "ENAMETOOLONG"),
        ("a path that is too long", do.truncate(TOO_LONG_PATH, 0), "ENAMETOOLONG"),
        ("an open file", do.ftruncate(Fd("f", RW), 5), "ok"),
        ("an open file for writing only", do.ftruncate(Fd("f", W), 5), "ok"),
        ("an open file for reading only", do.ftruncate(Fd("f", R), 5), "EINVAL"),
        ("an O_PATH descriptor", do.ftruncate(Fd("f", os.O_PATH), 5), "EBADF"),
        ("an open directory", do.ftruncate(Fd("d", R), 0), "EINVAL"),
        ("an open file to a negative size", do.ftruncate(Fd("f", RW), -1), "EINVAL"),
        ("a descriptor that does not exist", do.ftruncate(999, 0), "EBADF"),
        ("to more than the filesystem holds", do.truncate("f", 1 << 40), "ok"),
        ("to a petabyte", do.truncate("f", 10**15 - 1), "ok"),
        ("to more than a file can hold", do.truncate("f", (1 << 63) - 1), "ok"),
    ],
)

table.rows(
    "secret:10~600 unseen/ unseen/f~666 unseen/~666 open:10~222 readable:10~444",
    [
        ("what one may not write", do.alice.truncate("secret", 0), "EACCES"),
        ("what one may only read", do.alice.truncate("readable", 0), "EACCES"),
        ("what one may only write", do.alice.truncate("open", 5), "ok"),
        ("where one may not search", do.alice.truncate("unseen/f", 0), "EACCES"),
        ("by root what nobody may write", do.truncate("readable", 0), "ok"),
    ],
)

table.times(
    "d/ d/f:100 d/e",
    [
        ("times of shrinking", do.truncate("d/f", 50), {"d/f": "mc", "d": ""}),
        ("times of growing", do.truncate("d/f", 150), {"d/f": "mc", "d": ""}),
        ("times of an open file", do.ftruncate(Fd("d/f"), 50), {"d/f": "mc"}),
        ("times of setting the size it has", do.truncate("d/f", 100), {"d/f": ""}),
        ("times of an open file of setting the size it has", do.ftruncate(Fd("d/f"), 100), {"d/f": "mc"}),
    ],
)

for size in (0, 1, 511, 4095, 4096, 4097, 2 * MIB - 1, 2 * MIB, 2 * MIB + 1, 5 * MIB + 123):

    @table.check(f"to {size} bytes", given="f:100000", gives=(size, size, size))
    def _(t: Tree, size: int = size) -> object:
        fd = t.opened("f")
        t.truncate("f", size)
        return t.lstat("f").st_size, t.fstat(fd).st_size, t.lseek(fd, 0, os.SEEK_END)


@table.check("what is added reads as zero", given="f:5000", gives=(b"x" * 100, bytes(100), bytes(100)))
def _(t: Tree) -> object:
    fd = t.opened("f")
    t.poke(t.mmap(fd, 8192, BOTH, SHARED), 0, b"x" * 5000)
    t.ftruncate(fd, 4 * MIB)
    mapping = t.mmap(fd, 4 * MIB, BOTH, SHARED)
    return t.peek(mapping, 4900, 100), t.peek(mapping, 5000, 100), t.peek(mapping, 3 * MIB, 100)


for low, high in ((100, 5000), (5000, 2 * MIB), (2 * MIB, 4 * MIB), (3 * MIB, 3 * MIB + 100), (0, 4 * MIB)):

    @table.check(
        f"what was cut from {high} to {low} comes back as zeros", given=f"f:{high}", gives=(True, True)
    )
    def _(t: Tree, low: int = low, high: int = high) -> object:
        fd = t.opened("f")
        first = t.mmap(fd, high, BOTH, SHARED)
        t.poke(first, 0, b"x" * high)
        t.munmap(first)
        t.ftruncate(fd, low)
        t.ftruncate(fd, high)
        again = t.peek(t.mmap(fd, high, BOTH, SHARED), 0, high)
        return again[:low] == b"x" * low, again[low:] == bytes(high - low)


@table.check("bytes stored behind the end show when the file grows", given="f:1000", gives=b"stale" * 20)
def _(t: Tree) -> object:
    fd = t.opened("f")
    t.poke(t.mmap(fd, 4096, BOTH, SHARED), 2000, b"stale" * 20)
    t.ftruncate(fd, 8192)
    return t.peek(t.mmap(fd, 8192, BOTH, SHARED), 2000, 100)


@table.check("touching pages behind the end is a bus error", given="f:4096", gives=("none", "SIGBUS"))
def _(t: Tree) -> object:
    mapping = t.mmap(t.opened("f"), 4 * MIB, BOTH, SHARED)
    return t.signal_of("peek", mapping, 4095, 1), t.signal_of("peek", mapping, 3 * MIB, 1)


@table.check("touching the page behind the end is a bus error", given="f:4096", gives="SIGBUS")
def _(t: Tree) -> object:
    mapping = t.mmap(t.opened("f"), 4 * MIB, BOTH, SHARED)
    t.peek(mapping, 0, 1)
    return t.signal_of("peek", mapping, 4096, 1)


@table.check("a mapping reaches what is added later", given="f:4096", gives=b"guest")
def _(t: Tree) -> object:
    fd = t.opened("f")
    mapping = t.mmap(fd, 4 * MIB, BOTH, SHARED)
    t.ftruncate(fd, 4 * MIB)
    t.poke(mapping, 3 * MIB, b"guest")
    return t.peek(t.mmap(fd, 4 * MIB, BOTH, SHARED), 3 * MIB, 5)


@table.check("beyond the process's file size limit", given="f:100", gives=("EFBIG", 100, "ok", 4096))
def _(t: Tree) -> object:
    fd = t.opened("f")
    t.file_size_limit(4096)
    said = (
        t.tries.ftruncate(fd, 4097),
        t.lstat("f").st_size,
        t.tries.ftruncate(fd, 4096),
        t.lstat("f").st_size,
    )
    t.file_size_limit(-1)
    return said


@table.check("memory follows the size", given="f", gives=(True, True, 0))
def _(t: Tree) -> object:
    fd = t.opened("f")
    t.fallocate(fd, 0, 0, 8 * MIB)
    high = t.lstat("f").st_blocks * 512
    t.ftruncate(fd, 4 * MIB)
    low = t.lstat("f").st_blocks * 512
    t.ftruncate(fd, 0)
    return high == 8 * MIB, low == 4 * MIB, t.lstat("f").st_blocks


@table.check("the size shows to every user at once", given="f:100~666", gives=(100, 200, 50))
def _(t: Tree) -> object:
    first = t.alice.lstat("f").st_size
    t.truncate("f", 200)
    second = t.alice.lstat("f").st_size
    t.alice.truncate("f", 50)
    return first, second, t.lstat("f").st_size


test_truncate = table.test()
