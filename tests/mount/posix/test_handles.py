"""name_to_handle_at(2), open_by_handle_at(2): what NFS servers and xfs_fsr live by."""

from __future__ import annotations

import os

from tests.mount.posix.table import Table, do
from tests.mount.posix.tree import Tree

table = Table("handles")

RO, RW = os.O_RDONLY, os.O_RDWR

table.rows(
    "f unseen/ unseen/f unseen/~666",
    [
        ("of a name that is missing", do.handle_of("no"), "ENOENT"),
        ("of what is below a file", do.handle_of("f/x"), "ENOTDIR"),
        ("of what is where one may not search", do.alice.handle_of("unseen/f"), "EACCES"),
    ],
)

for title, given, path in (
    ("a file", "x:4096", "x"),
    ("a directory", "x/ x/in", "x"),
    ("a file far below", "d/ d/e/ d/e/x", "d/e/x"),
):
    for forgotten in (False, True):

        @table.check(
            f"{title}{' that the kernel has forgotten' if forgotten else ''}", given=given, gives=True
        )
        def _(t: Tree, path: str = path, forgotten: bool = forgotten) -> object:
            handle, ino = t.handle_of(path), t.stat(path).st_ino
            if forgotten:
                t.chdir("/")
                t.drop_caches()
            fd = t.open_handle(t.place_fd(), handle)
            return t.fstat(fd).st_ino == ino


@table.check("a file that moved", given="d/ f:100", gives=100)
def _(t: Tree) -> object:
    handle = t.handle_of("f")
    t.rename("f", "d/g")
    return t.fstat(t.open_handle(t.place_fd(), handle)).st_size


@table.check("a file that is gone", given="f", gives="ESTALE")
def _(t: Tree) -> object:
    handle = t.handle_of("f")
    t.unlink("f")
    return t.tries.open_handle(t.place_fd(), handle)


@table.check("regression: files that are gone, before their FORGET was read", given="d/", gives=["ESTALE"])
def _(t: Tree) -> object:
    t.several([("mknod", f"d/{number}") for number in range(50)])
    handles = [t.handle_of(f"d/{number}") for number in range(50)]
    steps: list[tuple[object, ...]] = []
    for number, handle in enumerate(handles):
        steps += [("unlink", f"d/{number}"), ("no_handle", t.place_fd(), handle)]
    return sorted(set(t.several(steps)[1::2]))


@table.check("a file that is gone but open", given="f:100", gives=100)
def _(t: Tree) -> object:
    handle, fd = t.handle_of("f"), t.opened("f")
    t.unlink("f")
    again = t.open_handle(t.place_fd(), handle, RW)
    return t.fstat(again).st_size if fd != again else None


@table.check("a new file of the same name is not the old one", given="f", gives="ESTALE")
def _(t: Tree) -> object:
    handle = t.handle_of("f")
    t.unlink("f")
    t.mknod("f")
    return t.tries.open_handle(t.place_fd(), handle)


@table.check("is for root", given="f", gives="EPERM")
def _(t: Tree) -> object:
    return t.alice.tries.open_handle(t.alice.open(".", RO), t.handle_of("f"))


test_handles = table.test()
