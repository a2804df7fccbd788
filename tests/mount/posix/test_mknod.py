"""mknod(2), mkfifo(3), bind(2): every type of file may live beside the RAM files."""

from __future__ import annotations

import os
import stat

from tests.mount.posix.names import LONGEST_NAME, TOO_LONG_NAME, TOO_LONG_PATH
from tests.mount.posix.table import Table, do
from tests.mount.posix.tree import Tree

table = Table("mknod")

FILE, PIPE, SOCKET = stat.S_IFREG | 0o644, stat.S_IFIFO | 0o644, stat.S_IFSOCK | 0o644
CHARS, BLOCKS = stat.S_IFCHR | 0o600, stat.S_IFBLK | 0o600
NULL = os.makedev(1, 3)

table.rows(
    "d/ f l->f dangling->no loop->loop closed/~555",
    [
        ("a name that is taken", do.mknod("f", FILE), "EEXIST"),
        ("a name that a directory has", do.mknod("d", PIPE), "EEXIST"),
        ("a name that a dangling symlink has", do.mknod("dangling", PIPE), "EEXIST"),
        ("a name that a looping symlink has", do.mknod("loop", SOCKET), "EEXIST"),
        ("in a directory that is missing", do.mknod("no/x", PIPE), "ENOENT"),
        ("the empty name", do.mknod("", PIPE), "ENOENT"),
        ("below a file", do.mknod("f/x", PIPE), "ENOTDIR"),
        ("below a looping symlink", do.mknod("loop/x", PIPE), "ELOOP"),
        ("with a trailing slash", do.mknod("x/", FILE), "ENOENT"),
        ("the longest name", do.mknod(LONGEST_NAME, PIPE), "ok"),
        ("a name that is too long", do.mknod(TOO_LONG_NAME, PIPE), "ENAMETOOLONG"),
        ("a path that is too long", do.mknod(TOO_LONG_PATH, PIPE), "ENAMETOOLONG"),
        ("a directory", do.mknod("x", stat.S_IFDIR | 0o755), "EPERM"),
        ("a symlink", do.mknod("x", stat.S_IFLNK | 0o777), "EINVAL"),
        ("no type at all is a file", do.mknod("x", 0o644), "ok"),
        ("a type that does not exist", do.mknod("x", 0o030000), "EINVAL"),
        ("a device by a user", do.alice.mknod("x", CHARS, NULL), "EPERM"),
        ("a block device by a user", do.alice.mknod("x", BLOCKS, NULL), "EPERM"),
        ("a pipe by a user", do.alice.mknod("x", PIPE), "ok"),
        ("where one may not write", do.alice.mknod("closed/x", PIPE), "EACCES"),
    ],
)

table.times("d/", [("times", do.mknod("d/x", PIPE), {"d": "mc", "d/x": "amc"})])

for title, mode, device, kind in (
    ("a file", FILE, 0, stat.S_IFREG),
    ("a pipe", PIPE, 0, stat.S_IFIFO),
    ("a socket", SOCKET, 0, stat.S_IFSOCK),
    ("a character device", CHARS, NULL, stat.S_IFCHR),
    ("a block device", BLOCKS, os.makedev(8, 1), stat.S_IFBLK),
    ("a device with large numbers", CHARS, os.makedev(0xFFF, 0xFFFFF), stat.S_IFCHR),
):

    @table.check(f"{title} is what was asked for", gives=(kind, device, 1, 0))
    def _(t: Tree, mode: int = mode, device: int = device) -> object:
        t.mknod("x", mode, device)
        at = t.lstat("x")
        return stat.S_IFMT(at.st_mode), at.st_rdev, at.st_nlink, at.st_size


@table.check("mode under umask", gives="640")
def _(t: Tree) -> object:
    t.umask(0o27)
    t.mknod("x", stat.S_IFIFO | 0o777)
    t.chmod("x", 0o640)
    return t.mode("x")


@table.check("umask takes bits", gives="750")
def _(t: Tree) -> object:
    t.umask(0o27)
    t.mknod("x", stat.S_IFIFO | 0o777)
    return t.mode("x")


@table.check("a device cannot be opened on a nodev mount", gives="EACCES")
def _(t: Tree) -> object:
    t.mknod("null", CHARS, NULL)
    return t.tries.opens("null", os.O_RDWR)


@table.check("bytes go through a named pipe", given="p|", gives=b"hello")
def _(t: Tree) -> object:
    return t.talk("p")


@table.check("a pipe keeps no bytes when nobody has it open", given="p|", gives="EAGAIN")
def _(t: Tree) -> object:
    t.talk("p")
    keeper = t.opened("p", os.O_RDWR | os.O_NONBLOCK)
    return t.tries.read(keeper, 5)


@table.check("bind makes a socket", gives=(True, "755", "ECONNREFUSED", "EADDRINUSE"))
def _(t: Tree) -> object:
    t.bind("s")
    is_socket = stat.S_ISSOCK(t.lstat("s").st_mode)
    return is_socket, t.mode("s"), t.tries.connect("s"), t.tries.bind("s")


@table.check("bind where one may not write", given="closed/~555", gives=("EACCES", "ENOENT"))
def _(t: Tree) -> object:
    return t.alice.tries.bind("closed/s"), t.tries.lstat("closed/s")


test_mknod = table.test()
