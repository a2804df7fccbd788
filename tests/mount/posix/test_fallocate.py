"""fallocate(2)."""

from __future__ import annotations

import mmap
import os

from tests.mount.posix.table import Fd, Table, do
from tests.mount.posix.tree import Tree

table = Table("fallocate")

MIB = 1 << 20
KEEP, PUNCH, COLLAPSE, ZERO, INSERT, UNSHARE = 1, 2, 8, 16, 32, 64
SHARED, BOTH = mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE
F = Fd("f")

table.rows(
    "d/ f:10000~666 p|",
    [
        ("within the file", do.fallocate(F, 0, 0, 5000), "ok"),
        ("across the end", do.fallocate(F, 0, 5000, 10000), "ok"),
        ("behind the end", do.fallocate(F, 0, 20000, 10000), "ok"),
        ("keeping the size", do.fallocate(F, KEEP, 0, 20000), "ok"),
        ("a hole", do.fallocate(F, PUNCH | KEEP, 0, 4096), "ok"),
        ("a hole that is no page", do.fallocate(F, PUNCH | KEEP, 10, 100), "ok"),
        ("a hole across the end", do.fallocate(F, PUNCH | KEEP, 8192, 100000), "ok"),
        ("a hole behind the end", do.fallocate(F, PUNCH | KEEP, 20000, 4096), "ok"),
        ("a hole that would change the size", do.fallocate(F, PUNCH, 0, 4096), "EOPNOTSUPP"),
        ("collapsing", do.fallocate(F, COLLAPSE, 0, 4096), "EOPNOTSUPP"),
        ("inserting", do.fallocate(F, INSERT, 0, 4096), "EOPNOTSUPP"),
        ("zeroing", do.fallocate(F, ZERO, 0, 4096), "EOPNOTSUPP"),
        ("zeroing, keeping the size", do.fallocate(F, ZERO | KEEP, 0, 4096), "EOPNOTSUPP"),
        ("unsharing", do.fallocate(F, UNSHARE, 0, 4096), "EOPNOTSUPP"),
        ("a mode that does not exist", do.fallocate(F, 0x1000, 0, 4096), "EOPNOTSUPP"),
        ("nothing", do.fallocate(F, 0, 0, 0), "EINVAL"),
        ("a negative length", do.fallocate(F, 0, 0, -1), "EINVAL"),
        ("a negative offset", do.fallocate(F, 0, -1, 10), "EINVAL"),
        ("a hole of nothing", do.fallocate(F, PUNCH | KEEP, 0, 0), "EINVAL"),
        ("beyond what an offset can be", do.fallocate(F, 0, (1 << 63) - 10, 20), "EFBIG"),
        ("of more than the filesystem holds", do.fallocate(F, 0, 0, 1 << 40), "ENOSPC"),
        ("of more than the filesystem holds, keeping the size", do.fallocate(F, KEEP, 0, 1 << 40), "ENOSPC"),
        ("a file open for reading only", do.fallocate(Fd("f", os.O_RDONLY), 0, 0, 4096), "EBADF"),
        ("a file open for writing only", do.fallocate(Fd("f", os.O_WRONLY), 0, 0, 4096), "ok"),
        ("a directory", do.fallocate(Fd("d", os.O_RDONLY), 0, 0, 4096), "EBADF"),
        ("a pipe", do.fallocate(Fd("p", os.O_RDWR | os.O_NONBLOCK), 0, 0, 4096), "ESPIPE"),
        ("an O_PATH descriptor", do.fallocate(Fd("f", os.O_PATH), 0, 0, 4096), "EBADF"),
        ("a descriptor that does not exist", do.fallocate(999, 0, 0, 4096), "EBADF"),
    ],
)

table.times(
    "d/ d/f:10000",
    [
        ("times of growing", do.fallocate(Fd("d/f"), 0, 0, 20000), {"d/f": "mc", "d": ""}),
        ("times within the file", do.fallocate(Fd("d/f"), 0, 0, 5000), {"d/f": "mc", "d": ""}),
        ("times of keeping the size", do.fallocate(Fd("d/f"), KEEP, 0, 20000), {"d/f": "mc", "d": ""}),
        ("times of a hole", do.fallocate(Fd("d/f"), PUNCH | KEEP, 0, 4096), {"d/f": "mc", "d": ""}),
    ],
)


def sizes(t: Tree, fd: int) -> tuple[int, bool]:
    """The size, and whether the memory reaches at least 8 MiB."""
    at = t.fstat(fd)
    return at.st_size, at.st_blocks * 512 >= 8 * MIB


@table.check("mode 0 grows size and memory", given="f:100", gives=(8 * MIB, True))
def _(t: Tree) -> object:
    fd = t.opened("f")
    t.fallocate(fd, 0, 0, 8 * MIB)
    return sizes(t, fd)


@table.check("KEEP_SIZE grows memory only", given="f:100", gives=(100, True))
def _(t: Tree) -> object:
    fd = t.opened("f")
    t.fallocate(fd, KEEP, 0, 8 * MIB)
    return sizes(t, fd)


@table.check("growing into what was allocated before keeps the memory", given="f:100", gives=(5 * MIB, True))
def _(t: Tree) -> object:
    fd = t.opened("f")
    t.fallocate(fd, KEEP, 0, 8 * MIB)
    t.ftruncate(fd, 5 * MIB)
    return sizes(t, fd)


@table.check("truncating gives up what was allocated behind the end", given="f:100", gives=(100, False))
def _(t: Tree) -> object:
    fd = t.opened("f")
    t.fallocate(fd, KEEP, 0, 8 * MIB)
    t.ftruncate(fd, 100)
    return sizes(t, fd)


@table.check("allocating twice takes no more memory", given="f", gives=True)
def _(t: Tree) -> object:
    fd = t.opened("f")
    t.fallocate(fd, 0, 0, 8 * MIB)
    before = t.fstat(fd).st_blocks
    t.fallocate(fd, 0, 0, 8 * MIB)
    return t.fstat(fd).st_blocks == before


@table.check("allocating keeps what is there", given="f:10000", gives=b"guest")
def _(t: Tree) -> object:
    fd = t.opened("f")
    mapping = t.mmap(fd, 4096, BOTH, SHARED)
    t.poke(mapping, 100, b"guest")
    t.fallocate(fd, 0, 0, 8 * MIB)
    return t.peek(mapping, 100, 5)


@table.check(
    "a hole reads as zeros and leaves its neighbours", given="f:6291456", gives=(b"x", bytes(2), b"x", True)
)
def _(t: Tree) -> object:
    fd = t.opened("f")
    mapping = t.mmap(fd, 6 * MIB, BOTH, SHARED)
    t.poke(mapping, 0, b"x" * (6 * MIB))
    before = t.fstat(fd).st_blocks
    t.fallocate(fd, PUNCH | KEEP, 2 * MIB, 2 * MIB)
    freed = (before - t.fstat(fd).st_blocks) * 512 == 2 * MIB
    inside = t.peek(mapping, 2 * MIB, 1) + t.peek(mapping, 4 * MIB - 1, 1)
    return t.peek(mapping, 2 * MIB - 1, 1), inside, t.peek(mapping, 4 * MIB, 1), freed


@table.check("a small hole reads as zeros to the byte", given="f:8192", gives=(b"x", bytes(2), b"x"))
def _(t: Tree) -> object:
    fd = t.opened("f")
    mapping = t.mmap(fd, 8192, BOTH, SHARED)
    t.poke(mapping, 0, b"x" * 8192)
    t.fallocate(fd, PUNCH | KEEP, 100, 5000)
    return (
        t.peek(mapping, 99, 1),
        t.peek(mapping, 100, 1) + t.peek(mapping, 5099, 1),
        t.peek(mapping, 5100, 1),
    )


@table.check("a hole can be filled again through a mapping", given="f:4194304", gives=(b"again", True))
def _(t: Tree) -> object:
    fd = t.opened("f")
    t.fallocate(fd, 0, 0, 4 * MIB)
    mapping = t.mmap(fd, 4 * MIB, BOTH, SHARED)
    t.fallocate(fd, PUNCH | KEEP, 0, 4 * MIB)
    punched = t.fstat(fd).st_blocks
    t.poke(mapping, MIB, b"again")
    return t.peek(mapping, MIB, 5), t.fstat(fd).st_blocks > punched


@table.check("a hole can be filled again by fallocate", given="f:4194304", gives=(4 * MIB, bytes(5)))
def _(t: Tree) -> object:
    fd = t.opened("f")
    t.fallocate(fd, 0, 0, 4 * MIB)
    t.poke(t.mmap(fd, 4 * MIB, BOTH, SHARED), 0, b"guest")
    t.fallocate(fd, PUNCH | KEEP, 0, 4 * MIB)
    t.fallocate(fd, 0, 0, 4 * MIB)
    return t.fstat(fd).st_blocks * 512, t.peek(t.mmap(fd, 4 * MIB, BOTH, SHARED), 0, 5)


@table.check(
    "refused for want of room leaves the file as it was",
    given="f:8192",
    gives=("ENOSPC", 8192, True, b"guest"),
)
def _(t: Tree) -> object:
    fd = t.opened("f")
    mapping = t.mmap(fd, 8192, BOTH, SHARED)
    t.poke(mapping, 0, b"guest")
    before = t.fstat(fd)
    said = t.tries.fallocate(fd, 0, 0, 1 << 40)
    after = t.fstat(fd)
    same = before.st_blocks == after.st_blocks and before.st_mtime_ns == after.st_mtime_ns
    return said, after.st_size, same, t.peek(mapping, 0, 5)


@table.check("beyond the process's file size limit", given="f:100", gives=("EFBIG", 100, "ok"))
def _(t: Tree) -> object:
    fd = t.opened("f")
    t.file_size_limit(4096)
    said = t.tries.fallocate(fd, 0, 0, 4097), t.fstat(fd).st_size, t.tries.fallocate(fd, 0, 0, 4096)
    t.file_size_limit(-1)
    return said


@table.check("of an unlinked file", given="f", gives=("ok", 4096))
def _(t: Tree) -> object:
    fd = t.opened("f")
    t.unlink("f")
    return t.tries.fallocate(fd, 0, 0, 4096), t.fstat(fd).st_size


test_fallocate = table.test()
