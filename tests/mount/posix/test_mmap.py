"""mmap(2) and what is done to mappings."""

from __future__ import annotations

import mmap
import os

from tests.mount.posix.table import Fd, Table, do
from tests.mount.posix.tree import Tree

table = Table("mmap")

MIB = 1 << 20
R, W, X = mmap.PROT_READ, mmap.PROT_WRITE, mmap.PROT_EXEC
SHARED, PRIVATE, VALIDATE = mmap.MAP_SHARED, mmap.MAP_PRIVATE, 3
SYNC, ASYNC, INVALIDATE = 4, 1, 2
DONTNEED, REMOVE, POPULATE_READ, POPULATE_WRITE, FREE, DONTFORK = 4, 9, 22, 23, 8, 10
RO, WO, RW = os.O_RDONLY, os.O_WRONLY, os.O_RDWR

table.rows(
    "d/ f:8192 empty p|",
    [
        ("shared, read and write", do.maps(Fd("f", RW), 8192, R | W, SHARED), "ok"),
        ("shared, read", do.maps(Fd("f", RW), 8192, R, SHARED), "ok"),
        ("shared, read, of a file open for reading", do.maps(Fd("f", RO), 8192, R, SHARED), "ok"),
        ("shared, write, of a file open for reading", do.maps(Fd("f", RO), 8192, R | W, SHARED), "EACCES"),
        ("private, write, of a file open for reading", do.maps(Fd("f", RO), 8192, R | W, PRIVATE), "ok"),
        ("private, read and write", do.maps(Fd("f", RW), 8192, R | W, PRIVATE), "ok"),
        ("of a file open for writing", do.maps(Fd("f", WO), 8192, R, SHARED), "EACCES"),
        ("shared, write, of a file open for writing", do.maps(Fd("f", WO), 8192, W, SHARED), "EACCES"),
        ("without any rights", do.maps(Fd("f", RO), 8192, 0, SHARED), "ok"),
        ("shared and validated", do.maps(Fd("f", RW), 8192, R | W, VALIDATE), "ok"),
        ("to be run on a noexec mount", do.maps(Fd("f", RW), 8192, R | X, SHARED), "EPERM"),
        ("private to be run on a noexec mount", do.maps(Fd("f", RW), 8192, R | X, PRIVATE), "EPERM"),
        ("of nothing", do.maps(Fd("f", RW), 0, R, SHARED), "EINVAL"),
        ("at an offset that is no page", do.maps(Fd("f", RW), 4096, R, SHARED, 100), "EINVAL"),
        ("neither shared nor private", do.maps(Fd("f", RW), 4096, R, 0), "EINVAL"),
        ("longer than the file", do.maps(Fd("f", RW), 16 * MIB, R | W, SHARED), "ok"),
        ("behind the end", do.maps(Fd("f", RW), 4096, R | W, SHARED, MIB), "ok"),
        ("of an empty file", do.maps(Fd("empty", RW), 4096, R | W, SHARED), "ok"),
        ("of a directory", do.maps(Fd("d", RO), 4096, R, SHARED), "ENODEV"),
        ("of a pipe", do.maps(Fd("p", RW | os.O_NONBLOCK), 4096, R, SHARED), "ENODEV"),
        ("of an O_PATH descriptor", do.maps(Fd("f", os.O_PATH), 4096, R, SHARED), "EBADF"),
        ("of a descriptor that does not exist", do.maps(999, 4096, R, SHARED), "EBADF"),
        ("of more than there is address space", do.maps(Fd("f", RW), 1 << 60, R, SHARED), "ENOMEM"),
        ("of a file that appends", do.maps(Fd("f", RW | os.O_APPEND), 8192, R | W, SHARED), "ok"),
        ("of a file open past the cache", do.maps(Fd("f", RW | os.O_DIRECT), 8192, R | W, SHARED), "ok"),
    ],
)


def two(t: Tree, first: int = SHARED, second: int = SHARED) -> tuple[int, int]:
    """Two mappings of one file, from two opens."""
    return (
        t.mmap(t.opened("f"), 4 * MIB, R | W, first),
        t.mmap(t.opened("f"), 4 * MIB, R | W, second),
    )


@table.check("what one shared mapping writes another reads", given="f:4194304", gives=b"guest")
def _(t: Tree) -> object:
    first, second = two(t)
    t.poke(first, 3 * MIB, b"guest")
    return t.peek(second, 3 * MIB, 5)


@table.check("what one user writes another reads", given="f:4194304~666", gives=(b"guest", b"reply"))
def _(t: Tree) -> object:
    mine = t.mmap(t.opened("f"), 4 * MIB, R | W, SHARED)
    alices = t.alice.mmap(t.alice.open("f", RW), 4 * MIB, R | W, SHARED)
    t.poke(mine, 100, b"guest")
    seen = t.alice.peek(alices, 100, 5)
    t.alice.poke(alices, 100, b"reply")
    return seen, t.peek(mine, 100, 5)


@table.check(
    "a private mapping keeps what it writes", given="f:4194304", gives=(b"own  ", b"guest", b"guest")
)
def _(t: Tree) -> object:
    shared, private = two(t, SHARED, PRIVATE)
    t.poke(shared, 0, b"guest")
    seen_before = t.peek(private, 0, 5)
    t.poke(private, 0, b"own  ")
    return t.peek(private, 0, 5), t.peek(shared, 0, 5), seen_before


@table.check(
    "a private mapping sees what is written before it writes itself", given="f:4194304", gives=b"later"
)
def _(t: Tree) -> object:
    shared, private = two(t, SHARED, PRIVATE)
    t.peek(private, MIB, 5)
    t.poke(shared, MIB, b"later")
    return t.peek(private, MIB, 5)


@table.check("at an offset", given="f:4194304", gives=(b"guest", b"there"))
def _(t: Tree) -> object:
    fd = t.opened("f")
    whole, part = t.mmap(fd, 4 * MIB, R | W, SHARED), t.mmap(fd, 8192, R | W, SHARED, 2 * MIB + 4096)
    t.poke(whole, 2 * MIB + 4096, b"guest")
    seen = t.peek(part, 0, 5)
    t.poke(part, 4096, b"there")
    return seen, t.peek(whole, 2 * MIB + 8192, 5)


@table.check("outlives its descriptor", given="f:4096", gives=b"guest")
def _(t: Tree) -> object:
    fd = t.opened("f")
    mapping = t.mmap(fd, 4096, R | W, SHARED)
    t.close(fd)
    t.poke(mapping, 0, b"guest")
    return t.peek(mapping, 0, 5)


@table.check(
    "what was written is there when it is mapped again", given="f:4194304", gives=(b"guest", bytes(5))
)
def _(t: Tree) -> object:
    fd = t.opened("f")
    mapping = t.mmap(fd, 4 * MIB, R | W, SHARED)
    t.poke(mapping, MIB, b"guest")
    t.munmap(mapping)
    t.close(fd)
    again = t.mmap(t.opened("f", RO), 4 * MIB, R, SHARED)
    return t.peek(again, MIB, 5), t.peek(again, 2 * MIB, 5)


@table.check("a new file reads as zeros", given="f:4194304", gives=True)
def _(t: Tree) -> object:
    return t.peek(t.mmap(t.opened("f"), 4 * MIB, R, SHARED), 0, 4 * MIB) == bytes(4 * MIB)


@table.check("writing to a read-only mapping", given="f:4096", gives="SIGSEGV")
def _(t: Tree) -> object:
    return t.signal_of("poke", t.mmap(t.opened("f"), 4096, R, SHARED), 0, b"x")


@table.check("making a mapping writable", given="f:4096", gives=("ok", "EACCES", "ok"))
def _(t: Tree) -> object:
    writable, readable = t.opened("f", RW), t.opened("f", RO)
    return (
        t.tries.mprotect(t.mmap(writable, 4096, R, SHARED), 4096, R | W),
        t.tries.mprotect(t.mmap(readable, 4096, R, SHARED), 4096, R | W),
        t.tries.mprotect(t.mmap(readable, 4096, R, PRIVATE), 4096, R | W),
    )


@table.check("making a mapping runnable on a noexec mount", given="f:4096", gives="EACCES")
def _(t: Tree) -> object:
    return t.tries.mprotect(t.mmap(t.opened("f"), 4096, R, SHARED), 4096, R | X)


@table.check("msync", given="f:8192", gives=("ok", "ok", "ok", "EINVAL"))
def _(t: Tree) -> object:
    mapping = t.mmap(t.opened("f"), 8192, R | W, SHARED)
    t.poke(mapping, 0, b"x")
    flags = (SYNC, ASYNC, INVALIDATE, SYNC | ASYNC)
    return tuple(t.tries.msync(mapping, 8192, each) for each in flags)


@table.check("a child shares a shared mapping", given="f:4096", gives=b"child")
def _(t: Tree) -> object:
    return t.inherits(t.mmap(t.opened("f"), 4096, R | W, SHARED), 0, b"child")


@table.check("a child does not share a private mapping", given="f:4096", gives=bytes(5))
def _(t: Tree) -> object:
    return t.inherits(t.mmap(t.opened("f"), 4096, R | W, PRIVATE), 0, b"child")


@table.check("DONTNEED keeps the bytes of a shared mapping", given="f:4194304", gives=("ok", b"guest"))
def _(t: Tree) -> object:
    mapping = t.mmap(t.opened("f"), 4 * MIB, R | W, SHARED)
    t.poke(mapping, MIB, b"guest")
    return t.tries.madvise(mapping, 0, 4 * MIB, DONTNEED), t.peek(mapping, MIB, 5)


@table.check("DONTNEED drops what a private mapping wrote", given="f:4096", gives=("ok", bytes(5)))
def _(t: Tree) -> object:
    mapping = t.mmap(t.opened("f"), 4096, R | W, PRIVATE)
    t.poke(mapping, 0, b"own  ")
    return t.tries.madvise(mapping, 0, 4096, DONTNEED), t.peek(mapping, 0, 5)


@table.check("REMOVE punches the file", given="f:4194304", gives=("ok", bytes(5), b"stays", 2 * MIB))
def _(t: Tree) -> object:
    fd = t.opened("f")
    mapping = t.mmap(fd, 4 * MIB, R | W, SHARED)
    t.poke(mapping, 0, b"x" * (4 * MIB))
    t.poke(mapping, 3 * MIB, b"stays")
    said = t.tries.madvise(mapping, 0, 2 * MIB, REMOVE)
    return said, t.peek(mapping, MIB, 5), t.peek(mapping, 3 * MIB, 5), 2 * MIB


@table.check("REMOVE of a private mapping", given="f:4096", gives="EACCES")
def _(t: Tree) -> object:
    return t.tries.madvise(t.mmap(t.opened("f"), 4096, R | W, PRIVATE), 0, 4096, REMOVE)


@table.check("populating", given="f:4194304", gives=("ok", "ok", "EFAULT"))
def _(t: Tree) -> object:
    fd = t.opened("f")
    mapping = t.mmap(fd, 4 * MIB, R | W, SHARED)
    longer = t.mmap(fd, 8 * MIB, R | W, SHARED)
    return (
        t.tries.madvise(mapping, 0, 4 * MIB, POPULATE_READ),
        t.tries.madvise(mapping, 0, 4 * MIB, POPULATE_WRITE),
        t.tries.madvise(longer, 0, 8 * MIB, POPULATE_WRITE),
    )


@table.check("a file stays mapped while it is renamed and unlinked", given="f:4096 d/", gives=b"guest")
def _(t: Tree) -> object:
    mapping = t.mmap(t.opened("f"), 4096, R | W, SHARED)
    t.poke(mapping, 0, b"guest")
    t.rename("f", "d/g")
    t.chmod("d/g", 0)
    t.unlink("d/g")
    return t.peek(mapping, 0, 5)


@table.check("many mappings of one file", given="f:4194304", gives=100 * [b"guest"])
def _(t: Tree) -> object:
    mappings = [t.mmap(t.opened("f", RW), 4 * MIB, R | W, SHARED) for _ in range(100)]
    t.poke(mappings[0], MIB, b"guest")
    return [t.peek(each, MIB, 5) for each in mappings]


table.times("f:4096", [("times of mapping", do.maps(Fd("f"), 4096, R | W, SHARED), {"f": "a"})])


@table.check("times of storing through a mapping", given="f:4096", gives="mc")
def _(t: Tree) -> object:
    mapping = t.mmap(t.opened("f"), 4096, R | W, SHARED)
    before = t.past_times(["f"])["f"]
    t.poke(mapping, 0, b"guest")
    after = t.times(["f"])["f"]
    return "".join(letter for letter, was, now in zip("amc", before, after, strict=True) if was != now)


test_mmap = table.test()
