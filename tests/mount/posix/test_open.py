"""open(2), creat(2): what is opened, what is made, what is refused."""

from __future__ import annotations

import os
import stat

from tests.mount.posix.names import LONGEST_NAME, LONGEST_PATH, TOO_LONG_NAME, TOO_LONG_PATH
from tests.mount.posix.table import Table, do
from tests.mount.posix.tree import Tree
from tests.mount.posix.user import ALICE, SHARED_GROUP

table = Table("open")

R, W, RW = os.O_RDONLY, os.O_WRONLY, os.O_RDWR
CREATE, EXCLUSIVE, TRUNCATE = os.O_CREAT, os.O_EXCL, os.O_TRUNC
DIRECTORY, NOFOLLOW, PATH = os.O_DIRECTORY, os.O_NOFOLLOW, os.O_PATH
NONBLOCK = os.O_NONBLOCK

table.rows(
    "d/ f p| s= l->f dangling->no loop->loop to-d->d",
    [
        ("a file for reading", do.opens("f", R), "ok"),
        ("a file for writing", do.opens("f", W), "ok"),
        ("a file for both", do.opens("f", RW), "ok"),
        ("a file for appending", do.opens("f", W | os.O_APPEND), "ok"),
        ("a file synchronously", do.opens("f", RW | os.O_SYNC), "ok"),
        ("a file past the cache", do.opens("f", RW | os.O_DIRECT), "ok"),
        ("a file with O_PATH", do.opens("f", PATH), "ok"),
        ("a file as a directory", do.opens("f", DIRECTORY), "ENOTDIR"),
        ("a file with a trailing slash", do.opens("f/"), "ENOTDIR"),
        ("a file through a symlink", do.opens("l", RW), "ok"),
        ("a name that is missing", do.opens("no"), "ENOENT"),
        ("the empty name", do.opens(""), "ENOENT"),
        ("in a directory that is missing", do.opens("no/x", RW | CREATE), "ENOENT"),
        ("below a file", do.opens("f/x"), "ENOTDIR"),
        ("below a file, creating", do.opens("f/x", RW | CREATE), "ENOTDIR"),
        ("a looping symlink", do.opens("loop"), "ELOOP"),
        ("below a looping symlink", do.opens("loop/x"), "ELOOP"),
        ("a dangling symlink", do.opens("dangling"), "ENOENT"),
        ("a name that is too long", do.opens(TOO_LONG_NAME), "ENAMETOOLONG"),
        ("creating a name that is too long", do.opens(TOO_LONG_NAME, RW | CREATE), "ENAMETOOLONG"),
        ("creating the longest name", do.opens(LONGEST_NAME, RW | CREATE), "ok"),
        ("creating by the longest path", do.opens(LONGEST_PATH, RW | CREATE), "ok"),
        ("creating by a path that is too long", do.opens(TOO_LONG_PATH, RW | CREATE), "ENAMETOOLONG"),
        ("creating what is there", do.opens("f", RW | CREATE), "ok"),
        ("creating exclusively what is there", do.opens("f", RW | CREATE | EXCLUSIVE), "EEXIST"),
        ("creating exclusively where a directory is", do.opens("d", RW | CREATE | EXCLUSIVE), "EEXIST"),
        ("creating exclusively where a symlink is", do.opens("l", RW | CREATE | EXCLUSIVE), "EEXIST"),
        (
            "creating exclusively where a symlink dangles",
            do.opens("dangling", RW | CREATE | EXCLUSIVE),
            "EEXIST",
        ),
        ("creating exclusively where a symlink loops", do.opens("loop", RW | CREATE | EXCLUSIVE), "EEXIST"),
        ("creating through a looping symlink", do.opens("loop", RW | CREATE), "ELOOP"),
        ("creating with a trailing slash", do.opens("x/", RW | CREATE), "EISDIR"),
        ("creating a directory", do.opens("x", R | CREATE | DIRECTORY), "EINVAL"),
        ("exclusively without creating", do.opens("f", RW | EXCLUSIVE), "ok"),
        ("a directory for reading", do.opens("d", R), "ok"),
        ("a directory as a directory", do.opens("d", R | DIRECTORY), "ok"),
        ("a directory through a symlink", do.opens("to-d", R | DIRECTORY), "ok"),
        ("a directory for writing", do.opens("d", W), "EISDIR"),
        ("a directory for both", do.opens("d", RW), "EISDIR"),
        ("a directory, truncating", do.opens("d", R | TRUNCATE), "EISDIR"),
        ("a directory, creating", do.opens("d", R | CREATE), "EISDIR"),
        ("dot for writing", do.opens(".", W), "EISDIR"),
        ("a symlink that shall not be followed", do.opens("l", RW | NOFOLLOW), "ELOOP"),
        (
            "a symlink to a directory that shall not be followed",
            do.opens("to-d", R | NOFOLLOW | DIRECTORY),
            "ENOTDIR",
        ),
        ("a symlink itself with O_PATH", do.opens("l", PATH | NOFOLLOW), "ok"),
        ("a socket", do.opens("s", RW), "ENXIO"),
        ("a socket with O_PATH", do.opens("s", PATH), "ok"),
        ("a pipe without reader for writing", do.opens("p", W | NONBLOCK), "ENXIO"),
        ("a pipe for reading", do.opens("p", R | NONBLOCK), "ok"),
        ("a pipe for both", do.opens("p", RW | NONBLOCK), "ok"),
    ],
)

table.rows(
    "closed/~555 closed/f unseen/ unseen/f~666 unseen/~700 secret~600 alices/~755@alice alices/f@alice",
    [
        ("creating where one may not write", do.alice.opens("closed/x", RW | CREATE), "EACCES"),
        ("what is there where one may not write", do.alice.opens("closed/f", R | CREATE), "ok"),
        ("in a directory that may not be searched", do.alice.opens("unseen/f"), "EACCES"),
        ("what one may not read", do.alice.opens("secret"), "EACCES"),
        ("what one may not write, truncating", do.alice.opens("secret", R | TRUNCATE), "EACCES"),
        ("truncating what one may only read", do.bob.opens("alices/f", R | TRUNCATE), "EACCES"),
        ("by root what nobody may read", do.opens("secret", RW), "ok"),
        ("without access time by the owner", do.alice.opens("alices/f", R | os.O_NOATIME), "ok"),
        ("without access time by somebody else", do.bob.opens("alices/f", R | os.O_NOATIME), "EPERM"),
        ("in one's own directory", do.alice.opens("alices/x", RW | CREATE), "ok"),
    ],
)

table.times(
    "d/ d/f d/big:4096",
    [
        ("times of creating", do.opens("d/x", RW | CREATE), {"d": "mc", "d/x": "amc"}),
        ("times of opening", do.opens("d/f", RW), {"d": "", "d/f": ""}),
        ("times of creating what is there", do.opens("d/f", RW | CREATE), {"d": "", "d/f": ""}),
        ("times of truncating", do.opens("d/big", RW | TRUNCATE), {"d": "", "d/big": "mc"}),
        ("times of truncating what is empty", do.opens("d/f", RW | TRUNCATE), {"d": "", "d/f": "mc"}),
    ],
)


def allowed(mode: int, shift: int) -> str:
    """Which of reading and writing the three bits at `shift` allow."""
    bits = mode >> shift
    return "".join(letter for letter, bit in (("r", 4), ("w", 2)) if bits & bit)


for mode in (0o700, 0o070, 0o007, 0o640, 0o604, 0o046, 0o266, 0o426, 0o000, 0o111, 0o666):

    @table.check(
        f"who may read and write a file of mode {mode:03o}",
        given="f@alice",
        gives={"alice": allowed(mode, 6), "mate": allowed(mode, 3), "bob": allowed(mode, 0), "root": "rw"},
    )
    def _(t: Tree, mode: int = mode) -> object:
        t.chown("f", ALICE.uid, SHARED_GROUP)
        t.chmod("f", mode)
        said = {}
        for name in ("alice", "mate", "bob", "root"):
            tries = t.hands(name).tries
            said[name] = "".join(
                letter for letter, flag in (("r", R), ("w", W)) if tries.opens("f", flag) == "ok"
            )
        return said


for umask, mode, gives in (
    (0, 0o777, "777"),
    (0o22, 0o666, "644"),
    (0o77, 0o7777, "7700"),
    (0o777, 0o666, "0"),
    (0, 0o4755, "4755"),
):

    @table.check(f"mode {mode:o} under umask {umask:o}", gives=(gives, stat.S_IFREG, 0, 1))
    def _(t: Tree, umask: int = umask, mode: int = mode) -> object:
        t.umask(umask)
        t.opens("f", RW | CREATE, mode)
        at = t.lstat("f")
        return t.mode("f"), stat.S_IFMT(at.st_mode), at.st_size, at.st_nlink


@table.check("creating leaves the mode of what is there", given="f~640", gives="640")
def _(t: Tree) -> object:
    t.opens("f", RW | CREATE, 0o777)
    return t.mode("f")


@table.check("creating belongs to who did it", gives=("alice", "alice"))
def _(t: Tree) -> object:
    t.alice.opens("f", RW | CREATE)
    return t.owner("f")


@table.check("creating with mode 0 still gives a file that can be used", gives=("ok", 4096, "EACCES"))
def _(t: Tree) -> object:
    fd = t.alice.open("f", RW | CREATE | EXCLUSIVE, 0)
    return t.alice.tries.ftruncate(fd, 4096), t.lstat("f").st_size, t.alice.tries.opens("f", RW)


@table.check("creating through a dangling symlink makes its target", given="l->new", gives=["l", "new"])
def _(t: Tree) -> object:
    t.opens("l", RW | CREATE)
    return t.listdir()


@table.check("truncating empties the file and gives its memory back", given="f:4194304", gives=(0, 0, "644"))
def _(t: Tree) -> object:
    t.opens("f", W | TRUNCATE)
    at = t.lstat("f")
    return at.st_size, at.st_blocks, t.mode("f")


@table.check("truncating for reading only empties the file too", given="f:4096", gives=0)
def _(t: Tree) -> object:
    t.opens("f", R | TRUNCATE)
    return t.lstat("f").st_size


@table.check("truncating takes the setuid bit", given="f:4096@alice", gives="777")
def _(t: Tree) -> object:
    t.chmod("f", 0o6777)
    t.bob.opens("f", W | TRUNCATE)
    return t.mode("f")


@table.check("flags are kept", given="f", gives=True)
def _(t: Tree) -> object:
    fd = t.opened("f", W | os.O_APPEND | NONBLOCK)
    flags = t.open_flags(fd)
    t.set_open_flags(fd, os.O_APPEND)
    kept = flags & (os.O_ACCMODE | os.O_APPEND | NONBLOCK) == W | os.O_APPEND | NONBLOCK
    return kept and not t.open_flags(fd) & NONBLOCK


@table.check("with no descriptor left", given="f", gives=("EMFILE", "EMFILE", False))
def _(t: Tree) -> object:
    # The helper's own descriptors are more than three.
    t.descriptor_limit(3)
    said = t.tries.opens("f"), t.tries.opens("x", RW | CREATE)
    t.descriptor_limit(-1)
    return *said, t.exists("x")


@table.check("a file by its descriptor's name", given="f:8192", gives=8192)
def _(t: Tree) -> object:
    fd = t.opened("f", R)
    again = t.opened(f"/proc/self/fd/{fd}", RW)
    return t.fstat(again).st_size


@table.check("an O_PATH descriptor is good for fstat only", given="f:8192", gives=(8192, "EBADF", "EBADF"))
def _(t: Tree) -> object:
    fd = t.opened("f", PATH)
    return t.fstat(fd).st_size, t.tries.ftruncate(fd, 0), t.tries.fchmod(fd, 0o600)


@table.check("a stale name after a rename", given="f", gives=("ENOENT", "ok"))
def _(t: Tree) -> object:
    t.opens("f")
    t.rename("f", "g")
    return t.tries.opens("f"), t.tries.opens("g")


@table.check("many opens of one file at a time", given="f:4096", gives=(200, 200 * [4096]))
def _(t: Tree) -> object:
    fds = [t.opened("f", (R, W, RW)[number % 3]) for number in range(200)]
    return len(set(fds)), [t.fstat(fd).st_size for fd in fds]


test_open = table.test()
