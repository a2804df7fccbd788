"""Names are bytes: whatever is not a slash and not NUL, up to 255 of them."""

from __future__ import annotations

import os

from tests.mount.posix.names import LONGEST_NAME
from tests.mount.posix.table import Table
from tests.mount.posix.tree import Tree

table = Table("names")

NAMES = {
    "a newline": b"new\nline",
    "a space": b" ",
    "control characters": bytes(range(1, 32)),
    "no UTF-8": b"\xff\xfe\x80",
    "UTF-8": "Gästé-客".encode(),
    "half a UTF-8 character": "é".encode()[:1],
    "dots": b"...",
    "a leading dot": b".hidden",
    "a leading dash": b"-rf",
    "a backslash": b"\\",
    "shell characters": b"*?[]{}$`'\"|;&<>",
    "255 bytes": LONGEST_NAME.encode(),
    "255 bytes of UTF-8": "é".encode() * 127 + b"x",
    "high bytes": bytes(range(128, 256)),
}

for title, name in NAMES.items():

    @table.check(
        f"{title}: made, listed, found, linked, renamed, removed", gives=([name], True, 2, [b"x"], [])
    )
    def _(t: Tree, name: bytes = name) -> object:
        t.opens(name, os.O_CREAT | os.O_WRONLY)
        listed = [found for found, *_ in t.entries(t.opened(".", 0)) if found not in (b".", b"..")]
        found = t.lstat(name).st_ino == t.stat(name).st_ino
        t.link(name, "x")
        links = t.lstat(name).st_nlink
        t.rename("x", "y")
        t.unlink(name)
        t.rename("y", "x")
        renamed = [os.fsencode(each) for each in t.listdir()]
        t.unlink("x")
        return listed, found, links, renamed, t.listdir()

    @table.check(f"{title}: as a directory and a symlink's target", gives=(name, "ok"))
    def _(t: Tree, name: bytes = name) -> object:
        t.mkdir(name)
        t.symlink(name, "l")
        return t.readlink_bytes("l"), t.tries.mkdir("l/in")


@table.check("case matters", given="name", gives=("ENOENT", ["NAME", "name"]))
def _(t: Tree) -> object:
    before = t.tries.lstat("NAME")
    t.mknod("NAME")
    return before, t.listdir()


@table.check("composed and decomposed characters are two names", gives=2)
def _(t: Tree) -> object:
    t.mknod(b"\xc3\xa9")
    t.mknod(b"e\xcc\x81")
    return len(t.listdir())


@table.check("a name that is missing is missing until it is made", gives=("ENOENT", "ENOENT", "ok", "ENOENT"))
def _(t: Tree) -> object:
    first, second = t.tries.opens("x"), t.tries.opens("x")
    t.alice.mknod("x")
    third = t.tries.opens("x")
    t.alice.unlink("x")
    return first, second, third, t.tries.opens("x")


test_names = table.test()
