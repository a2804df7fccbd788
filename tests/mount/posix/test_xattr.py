"""setxattr(2), getxattr(2), listxattr(2), removexattr(2)."""

from __future__ import annotations

import os

from tests.mount.posix.names import TOO_LONG_NAME, TOO_LONG_PATH
from tests.mount.posix.table import Table, do
from tests.mount.posix.tree import Tree

table = Table("xattr")

CREATE, REPLACE = 1, 2
LONGEST = "user." + "a" * 250
assert len(LONGEST) == 255

table.rows(
    "d/ f p| s= l->f dangling->no loop->loop",
    [
        ("set on a file", do.setxattr("f", "user.a", b"v"), "ok"),
        ("set on a directory", do.setxattr("d", "user.a", b"v"), "ok"),
        ("set through a symlink", do.setxattr("l", "user.a", b"v"), "ok"),
        ("set on a pipe", do.setxattr("p", "user.a", b"v"), "EPERM"),
        ("set on a socket", do.setxattr("s", "user.a", b"v"), "EPERM"),
        ("set an empty value", do.setxattr("f", "user.a", b""), "ok"),
        ("set the longest name", do.setxattr("f", LONGEST, b"v"), "ok"),
        ("set a name that is too long", do.setxattr("f", LONGEST + "a", b"v"), "ERANGE"),
        ("set an empty name", do.setxattr("f", "", b"v"), "ERANGE"),
        ("set a name without its second half", do.setxattr("f", "user.", b"v"), "EINVAL"),
        ("set a name without a class", do.setxattr("f", "a", b"v"), "EOPNOTSUPP"),
        ("set a class that does not exist", do.setxattr("f", "other.a", b"v"), "EOPNOTSUPP"),
        ("set a trusted one", do.setxattr("f", "trusted.a", b"v"), "ok"),
        ("set a security one", do.setxattr("f", "security.a", b"v"), "ok"),
        ("set an access list", do.setxattr("f", "system.posix_acl_access", b"v"), "EINVAL"),
        ("set a value as long as can be", do.setxattr("f", "user.a", b"v" * 65536), "ok"),
        ("set a value that is too long", do.setxattr("f", "user.a", b"v" * 65537), "E2BIG"),
        ("replace what is missing", do.setxattr("f", "user.a", b"v", REPLACE), "ENODATA"),
        ("flags that do not exist", do.setxattr("f", "user.a", b"v", 4), "EINVAL"),
        ("set on a name that is missing", do.setxattr("no", "user.a", b"v"), "ENOENT"),
        ("set below a file", do.setxattr("f/x", "user.a", b"v"), "ENOTDIR"),
        ("set through a looping symlink", do.setxattr("loop", "user.a", b"v"), "ELOOP"),
        ("set on a name that is too long", do.setxattr(TOO_LONG_NAME, "user.a", b"v"), "ENAMETOOLONG"),
        ("set on a path that is too long", do.setxattr(TOO_LONG_PATH, "user.a", b"v"), "ENAMETOOLONG"),
        ("get what is missing", do.getxattr("f", "user.a"), "ENODATA"),
        ("get a trusted one that is missing", do.getxattr("f", "trusted.a"), "ENODATA"),
        ("get a security one that is missing", do.getxattr("f", "security.capability"), "ENODATA"),
        ("get an access list that is missing", do.getxattr("f", "system.posix_acl_access"), "ENODATA"),
        ("get of a class that does not exist", do.getxattr("f", "other.a"), "EOPNOTSUPP"),
        ("get of a name that is missing", do.getxattr("no", "user.a"), "ENOENT"),
        ("list of none", do.listxattr("f"), []),
        ("list of a name that is missing", do.listxattr("no"), "ENOENT"),
        ("remove what is missing", do.removexattr("f", "user.a"), "ENODATA"),
        ("remove of a class that does not exist", do.removexattr("f", "other.a"), "EOPNOTSUPP"),
        ("remove of a name that is missing", do.removexattr("no", "user.a"), "ENOENT"),
    ],
)

table.rows(
    "readable~644 writable~666 secret~600 sticky/~1777",
    [
        ("set by who may not write", do.alice.setxattr("readable", "user.a", b"v"), "EACCES"),
        ("set by who may write", do.alice.setxattr("writable", "user.a", b"v"), "ok"),
        ("get by who may not read", do.alice.getxattr("secret", "user.a"), "EACCES"),
        ("get by who may read", do.alice.getxattr("readable", "user.a"), "ENODATA"),
        ("remove by who may not write", do.alice.removexattr("readable", "user.a"), "EACCES"),
        ("set on a sticky directory by who may write", do.alice.setxattr("sticky", "user.a", b"v"), "EPERM"),
        ("set a trusted one by a user", do.alice.setxattr("writable", "trusted.a", b"v"), "EPERM"),
        ("list by who may not read", do.alice.listxattr("secret"), []),
    ],
)

table.times(
    "d/ d/f",
    [
        ("times of setting", do.setxattr("d/f", "user.a", b"v"), {"d/f": "c", "d": ""}),
        ("times of getting", do.listxattr("d/f"), {"d/f": ""}),
    ],
)


@table.check("times of removing", given="f", gives="c")
def _(t: Tree) -> object:
    t.setxattr("f", "user.a", b"v")
    before = t.past_times(["f"])["f"]
    t.removexattr("f", "user.a")
    after = t.times(["f"])["f"]
    return "".join(letter for letter, was, now in zip("amc", before, after, strict=True) if was != now)


for title, value in (
    ("text", b"value"),
    ("nothing", b""),
    ("zeros", bytes(100)),
    ("all bytes", bytes(range(256)) * 4),
    ("4 KiB", b"v" * 4096),
    ("64 KiB less names", b"v" * (65536 - 4096)),
):

    @table.check(f"a value of {title} comes back", given="f", gives=(value, len(value)))
    def _(t: Tree, value: bytes = value) -> object:
        t.setxattr("f", "user.a", value)
        return t.getxattr("f", "user.a"), t.getxattr_into("f", "user.a", 0)


@table.check("create and replace", given="f", gives=("ok", "EEXIST", "ok", b"3", "ok", "ENODATA"))
def _(t: Tree) -> object:
    tries = t.tries
    return (
        tries.setxattr("f", "user.a", b"1", CREATE),
        tries.setxattr("f", "user.a", b"2", CREATE),
        tries.setxattr("f", "user.a", b"3", REPLACE),
        tries.getxattr("f", "user.a"),
        tries.removexattr("f", "user.a"),
        tries.setxattr("f", "user.a", b"4", REPLACE),
    )


@table.check("list", given="f", gives=(["user.a", "user.b", "user.c"], ["user.a", "user.c"]))
def _(t: Tree) -> object:
    for name in "abc":
        t.setxattr("f", f"user.{name}", name.encode())
    first = sorted(t.listxattr("f"))
    t.removexattr("f", "user.b")
    return first, sorted(t.listxattr("f"))


@table.check("a buffer that is too small", given="f", gives=("ERANGE", 5, 5, "ERANGE", 14, 14))
def _(t: Tree) -> object:
    t.setxattr("f", "user.a", b"value")
    t.setxattr("f", "user.b", b"value")
    return (
        t.tries.getxattr_into("f", "user.a", 4),
        t.tries.getxattr_into("f", "user.a", 5),
        t.tries.getxattr_into("f", "user.a", 0),
        t.tries.listxattr_into("f", 13),
        t.tries.listxattr_into("f", 14),
        t.tries.listxattr_into("f", 0),
    )


@table.check("names that are not UTF-8", given="f", gives=[b"user.\xff\xfe\n"])
def _(t: Tree) -> object:
    t.setxattr("f", b"user.\xff\xfe\n", b"v")
    return [os.fsencode(name) for name in t.listxattr("f")]


@table.check("shows by every name, and is the file's own", given="f+g other", gives=(b"v", "ENODATA"))
def _(t: Tree) -> object:
    t.setxattr("f", "user.a", b"v")
    return t.getxattr("g", "user.a"), t.tries.getxattr("other", "user.a")


@table.check("a hundred of them", given="f", gives=(100, b"42"))
def _(t: Tree) -> object:
    t.several([("setxattr", "f", f"user.{number}", str(number).encode()) for number in range(100)])
    return len(t.listxattr("f")), t.getxattr("f", "user.42")


test_xattr = table.test()
