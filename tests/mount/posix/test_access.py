"""access(2), search permission, sticky directories, setgid directories: what the kernel decides by mode."""

from __future__ import annotations

import os
import stat

from tests.mount.posix.names import TOO_LONG_NAME
from tests.mount.posix.table import Table, do
from tests.mount.posix.tree import Tree
from tests.mount.posix.user import ALICE, BOB, SHARED_GROUP

table = Table("access")

F, R, W, X = os.F_OK, os.R_OK, os.W_OK, os.X_OK

table.rows(
    "d/ f~640@alice exe~755 l->f dangling->no loop->loop unseen/ unseen/f~666 unseen/~666 closed/~555",
    [
        ("existence", do.access("f", F), "ok"),
        ("existence of what is missing", do.access("no", F), "ENOENT"),
        ("below a file", do.access("f/x", F), "ENOTDIR"),
        ("through a looping symlink", do.access("loop", F), "ELOOP"),
        ("through a dangling symlink", do.access("dangling", F), "ENOENT"),
        ("a name that is too long", do.access(TOO_LONG_NAME, F), "ENAMETOOLONG"),
        ("a mode that does not exist", do.access("f", 8), "EINVAL"),
        ("the empty name", do.access("", F), "ENOENT"),
        ("reading by root", do.access("f", R | W), "ok"),
        ("running by root what nobody may run", do.access("f", X), "EACCES"),
        ("searching by root", do.access("unseen", X), "ok"),
        ("reading by the owner", do.alice.access("f", R | W), "ok"),
        ("reading by somebody else", do.bob.access("f", R), "EACCES"),
        ("existence for somebody who may not read", do.bob.access("f", F), "ok"),
        ("existence where one may not search", do.bob.access("unseen/f", F), "EACCES"),
        ("writing a directory one may not write", do.alice.access("closed", W), "EACCES"),
        ("running on a noexec mount", do.access("exe", X), "EACCES"),
        ("reading what may also be run", do.bob.access("exe", R), "ok"),
    ],
)

table.rows(
    "d/ d/f~666 d/e/ d/e/f~666 d/~711 e/ e/f~666 e/~744 script~755",
    [
        ("open in a directory that may only be searched", do.alice.opens("d/f"), "ok"),
        ("listing a directory that may only be searched", do.alice.listdir("d"), "EACCES"),
        ("listing a directory that may only be listed", do.alice.listdir("e"), ["f"]),
        ("open in a directory that may only be listed", do.alice.opens("e/f"), "EACCES"),
        ("stat in a directory that may only be listed", do.alice.stat("e/f"), "EACCES"),
        ("entering a directory that may only be searched", do.alice.chdir("d"), "ok"),
        ("entering a directory that may only be listed", do.alice.chdir("e"), "EACCES"),
        ("running on noexec", do.execute("./script"), "EACCES"),
    ],
)

for mode, alice, mate, bob in (
    (0o751, "rwx", "rx", "x"),
    (0o007, "", "", "rwx"),
    (0o070, "", "rwx", ""),
    (0o700, "rwx", "", ""),
    (0o444, "r", "r", "r"),
    (0o000, "", "", ""),
):

    @table.check(f"to a directory of mode {mode:03o}", given="d/", gives=(alice, mate, bob))
    def _(t: Tree, mode: int = mode) -> object:
        t.chown("d", ALICE.uid, SHARED_GROUP)
        t.chmod("d", mode)
        return tuple(
            "".join(
                letter for letter, bit in zip("rwx", (R, W, X), strict=True) if user.access("d", bit) == "ok"
            )
            for user in (t.alice.tries, t.mate.tries, t.bob.tries)
        )


# -- sticky directories -----------------------------------------------------------------------------

sticky = Table("sticky")

sticky.rows(
    "tmp/~1777 tmp/alices@alice tmp/roots tmp/adir/@alice alicestmp/~1777@alice alicestmp/bobs@bob",
    [
        ("unlink by the file's owner", do.alice.unlink("tmp/alices"), "ok"),
        ("unlink by somebody else", do.bob.unlink("tmp/alices"), "EPERM"),
        ("unlink of root's by somebody", do.bob.unlink("tmp/roots"), "EPERM"),
        ("unlink by root", do.unlink("tmp/alices"), "ok"),
        ("unlink by the directory's owner", do.alice.unlink("alicestmp/bobs"), "ok"),
        ("unlink of one's own in somebody's directory", do.bob.unlink("alicestmp/bobs"), "ok"),
        ("rmdir by somebody else", do.bob.rmdir("tmp/adir"), "EPERM"),
        ("rmdir by the owner", do.alice.rmdir("tmp/adir"), "ok"),
        ("rename within by somebody else", do.bob.rename("tmp/alices", "tmp/x"), "EPERM"),
        ("rename within by the owner", do.alice.rename("tmp/alices", "tmp/x"), "ok"),
        ("rename over somebody else's", do.alice.rename("tmp/alices", "tmp/roots"), "EPERM"),
        ("rename over by the directory's owner", do.alice.rename("tmp/alices", "alicestmp/bobs"), "ok"),
        ("making a file", do.bob.mknod("tmp/x"), "ok"),
    ],
)

# -- setgid directories -----------------------------------------------------------------------------

setgid = Table("setgid")


def shared(t: Tree) -> None:
    """A directory whose group new files shall have."""
    t.mkdir("d")
    t.chown("d", ALICE.uid, SHARED_GROUP)
    t.chmod("d", 0o2777)


for title, call in (
    ("a file", lambda t: t.bob.opens("d/x", os.O_CREAT)),
    ("a node", lambda t: t.bob.mknod("d/x")),
    ("a pipe", lambda t: t.bob.mknod("d/x", stat.S_IFIFO | 0o600)),
    ("a symlink", lambda t: t.bob.symlink("target", "d/x")),
    ("a directory", lambda t: t.bob.mkdir("d/x")),
):

    @setgid.check(
        f"{title} gets the directory's group", gives=(BOB.uid, SHARED_GROUP, title == "a directory")
    )
    def _(t: Tree, call: object = call) -> object:
        shared(t)
        call(t)  # type: ignore[operator]
        at = t.lstat("d/x")
        return at.st_uid, at.st_gid, bool(at.st_mode & stat.S_ISGID)


@setgid.check("a directory below a directory inherits too", gives=(SHARED_GROUP, "2755"))
def _(t: Tree) -> object:
    shared(t)
    t.bob.mkdir("d/e")
    t.bob.mkdir("d/e/f")
    return t.lstat("d/e/f").st_gid, t.mode("d/e/f")


@setgid.check("a setgid program by somebody outside the group loses the bit", gives=("755", "2755"))
def _(t: Tree) -> object:
    shared(t)
    t.bob.umask(0)
    t.alice.umask(0)
    t.bob.opens("d/bobs", os.O_CREAT | os.O_WRONLY, 0o2755)
    t.alice.opens("d/alices", os.O_CREAT | os.O_WRONLY, 0o2755)
    return t.mode("d/bobs"), t.mode("d/alices")


@setgid.check("a file without a name gets the directory's group", gives=SHARED_GROUP)
def _(t: Tree) -> object:
    shared(t)
    fd = t.bob.open("d", os.O_TMPFILE | os.O_RDWR)
    return t.bob.fstat(fd).st_gid


@setgid.check("moving into the directory changes no group", given="f", gives=0)
def _(t: Tree) -> object:
    shared(t)
    t.rename("f", "d/f")
    return t.lstat("d/f").st_gid


@setgid.check("truncating takes setuid and setgid from a program", given="f:100@alice", gives=("ok", "777"))
def _(t: Tree) -> object:
    t.chmod("f", 0o6777)
    return t.bob.tries.truncate("f", 50), t.mode("f")


@setgid.check("truncating by root takes nothing", given="f:100@alice", gives="6777")
def _(t: Tree) -> object:
    t.chmod("f", 0o6777)
    t.truncate("f", 50)
    return t.mode("f")


@setgid.check("allocating takes setuid and setgid from a program", given="f:100@alice", gives="777")
def _(t: Tree) -> object:
    t.chmod("f", 0o6777)
    fd = t.bob.open("f", os.O_RDWR)
    t.bob.fallocate(fd, 0, 0, 4096)
    return t.mode("f")


test_access = table.test()
test_sticky = sticky.test()
test_setgid = setgid.test()
