"""getdents64(2) by way of readdir(3): names, types, offsets."""

from __future__ import annotations

import os
import stat

from tests.mount.posix.table import Fd, Table, do
from tests.mount.posix.tree import Tree

table = Table("readdir")

RO = os.O_RDONLY
DIRECTORY, FILE, LINK, PIPE, SOCKET = (
    stat.S_IFMT(each) >> 12 for each in (0o040000, 0o100000, 0o120000, 0o010000, 0o140000)
)

table.rows(
    "d/ d/a d/b f l->d closed/~300",
    [
        ("a directory", do.listdir("d"), ["a", "b"]),
        ("through a symlink", do.listdir("l"), ["a", "b"]),
        ("a file", do.listdir("f"), "ENOTDIR"),
        ("a name that is missing", do.listdir("no"), "ENOENT"),
        ("one that may not be read", do.alice.listdir("closed"), "EACCES"),
        ("getdents of a file", do.entries(Fd("f", RO)), "ENOTDIR"),
        ("getdents of an O_PATH descriptor", do.entries(Fd("d", os.O_PATH)), "EBADF"),
        ("getdents into a buffer too small for a name", do.entries(Fd("d", RO), 16), "EINVAL"),
    ],
)

table.times("d/ d/a", [("times of listing", do.listdir("d"), {"d": "a"})])


def everything(t: Tree, fd: int, size: int = 32768) -> list[tuple[bytes, int, int, int]]:
    """All that is left of an open directory."""
    found = []
    while some := t.entries(fd, size):
        found += some
    return found


def names(entries: list[tuple[bytes, int, int, int]]) -> list[bytes]:
    return sorted(name for name, *_ in entries if name not in (b".", b".."))


@table.check(
    "types are told",
    given="d/ f l->x p| s=",
    gives={b"d": DIRECTORY, b"f": FILE, b"l": LINK, b"p": PIPE, b"s": SOCKET},
)
def _(t: Tree) -> object:
    return {name: kind for name, _, _, kind in everything(t, t.opened(".", RO)) if name not in (b".", b"..")}


@table.check("inode numbers are what stat says", given="d/ f l->x p|", gives=True)
def _(t: Tree) -> object:
    found = {name: ino for name, ino, _, _ in everything(t, t.opened(".", RO))}
    return all(t.lstat(name).st_ino == ino for name, ino in found.items() if name != b"..")


@table.check("dot and dot dot are the directory and its parent", given="d/", gives=(True, True))
def _(t: Tree) -> object:
    found = {name: ino for name, ino, _, _ in everything(t, t.opened("d", RO))}
    return found[b"."] == t.stat("d").st_ino, found[b".."] == t.stat(".").st_ino


@table.check("every name exactly once", given="d/", gives=(1000, 1000))
def _(t: Tree) -> object:
    t.several([("mknod", f"d/{number}") for number in range(1000)])
    found = names(everything(t, t.opened("d", RO), 4096))
    return len(found), len(set(found))


@table.check("offsets differ", given="d/", gives=True)
def _(t: Tree) -> object:
    t.several([("mknod", f"d/{number}") for number in range(100)])
    offsets = [offset for _, _, offset, _ in everything(t, t.opened("d", RO), 512)]
    return len(offsets) == len(set(offsets)) == 102


@table.check("goes on from an offset", given="d/", gives=True)
def _(t: Tree) -> object:
    t.several([("mknod", f"d/{number}") for number in range(50)])
    fd = t.opened("d", RO)
    found = everything(t, fd, 256)
    for at in (0, 1, 20, len(found) - 1):
        t.lseek(fd, found[at][2], os.SEEK_SET)
        if [name for name, *_ in everything(t, fd, 256)] != [name for name, *_ in found[at + 1 :]]:
            return f"not from entry {at}"
    return True


@table.check("goes on from an offset of another descriptor", given="d/", gives=True)
def _(t: Tree) -> object:
    t.several([("mknod", f"d/{number}") for number in range(50)])
    found = everything(t, t.opened("d", RO))
    other = t.opened("d", RO)
    t.lseek(other, found[25][2], os.SEEK_SET)
    return [name for name, *_ in everything(t, other)] == [name for name, *_ in found[26:]]


@table.check("rewound shows what is new", given="d/ d/a", gives=([b"a"], [], [b"a", b"b"]))
def _(t: Tree) -> object:
    fd = t.opened("d", RO)
    first, second = names(everything(t, fd)), names(everything(t, fd))
    t.mknod("d/b")
    t.lseek(fd, 0, os.SEEK_SET)
    return first, second, names(everything(t, fd))


@table.check("while entries go, those that stay are seen once", given="d/", gives=True)
def _(t: Tree) -> object:
    t.several([("mknod", f"d/{number:03}") for number in range(200)])
    fd = t.opened("d", RO)
    found = names(t.entries(fd, 1024))
    t.several([("unlink", f"d/{number:03}") for number in range(0, 200, 2)])
    found += names(everything(t, fd, 1024))
    staying = {f"{number:03}".encode() for number in range(1, 200, 2)}
    return staying <= set(found) and len(found) == len(set(found))


@table.check("while entries come, those that were there are seen once", given="d/", gives=True)
def _(t: Tree) -> object:
    t.several([("mknod", f"d/{number:03}") for number in range(200)])
    fd = t.opened("d", RO)
    found = names(t.entries(fd, 1024))
    t.several([("mknod", f"d/new{number:03}") for number in range(200)])
    found += names(everything(t, fd, 1024))
    there = {f"{number:03}".encode() for number in range(200)}
    return there <= set(found) and len(found) == len(set(found))


@table.check("all entries removed while it is read", given="d/", gives=("ok", []))
def _(t: Tree) -> object:
    t.several([("mknod", f"d/{number:03}") for number in range(100)])
    fd = t.opened("d", RO)
    while some := names(t.entries(fd, 512)):
        t.several([("unlink", b"d/" + name) for name in some])
    left = names(everything(t, t.opened("d", RO)))
    t.several([("unlink", b"d/" + name) for name in left])
    return t.tries.rmdir("d"), left


@table.check("a directory that was removed while it was open", given="d/", gives="ENOENT")
def _(t: Tree) -> object:
    fd = t.opened("d", RO)
    t.rmdir("d")
    return t.tries.entries(fd)


@table.check("a renamed entry shows under one name", given="d/ d/a d/b", gives=[b"b", b"c"])
def _(t: Tree) -> object:
    fd = t.opened("d", RO)
    t.entries(fd)
    t.rename("d/a", "d/c")
    return names(everything(t, t.opened("d", RO)))


@table.check("what another user made shows at once", given="d/~777", gives=[b"alices"])
def _(t: Tree) -> object:
    everything(t, t.opened("d", RO))
    t.alice.mknod("d/alices")
    return names(everything(t, t.opened("d", RO)))


test_readdir = table.test()
