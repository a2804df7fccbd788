"""Limits: what one user may own, what one inode may carry, how deep and how many."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from guestmemfs_fuse.core.types import LINK_MAX, UserLimits
from tests.mount.filesystem import Mounted, mounted, soon
from tests.mount.posix.tree import Hands

VALUE = b"v" * 60_000
LIMIT = UserLimits().max_xattr_bytes


@pytest.fixture(scope="module")
def fs() -> Iterator[Mounted]:
    with mounted("limits") as made:
        yield made


def test_the_attributes_of_one_file_end_at_64_kib(fs: Mounted) -> None:
    with fs.tree("f") as t:
        t.setxattr("f", "user.a", VALUE)
        before = t.snapshot()
        assert t.tries.setxattr("f", "user.b", VALUE) == "ENOSPC"
        assert t.snapshot() == before
        assert t.tries.setxattr("f", "user.a", b"less") == t.tries.setxattr("f", "user.b", VALUE) == "ok"


def patient(hands: Hands, path: str) -> str:
    """Set a large attribute. ENOSPC is for a moment only, while the journal is folded (docs/format.md)."""
    answers: list[str] = []

    def answered() -> bool:
        answers.append(hands.tries.setxattr(path, "user.a", VALUE))
        return answers[-1] != "ENOSPC"

    soon(answered)
    return answers[-1]


def test_a_users_attributes_end_at_the_limit_and_roots_do_not(fs: Mounted) -> None:
    with fs.tree("d/~777") as t:
        full = LIMIT // (len(VALUE) + 6)
        t.alice.several([("mknod", f"d/{number}") for number in range(full + 1)])
        for number in range(full):
            assert patient(t.alice, f"d/{number}") == "ok"
        assert patient(t.alice, f"d/{full}") == "EDQUOT"
        assert t.listxattr(f"d/{full}") == []
        t.mknod("roots")
        assert patient(t.hands("root"), "roots") == "ok"
        assert t.bob.tries.opens("d/bobs", os.O_CREAT) == patient(t.bob, "d/bobs") == "ok"
        assert t.tries.chown("roots", t.alice.user.identity.uid, -1) == "EDQUOT"
        t.alice.removexattr("d/0", "user.a")
        assert patient(t.alice, f"d/{full}") == "ok"
        t.alice.unlink("d/1")
        # What it carried counts until the kernel's FORGET, which a caller may overtake (docs/semantics.md)
        soon(lambda: patient(t.alice, "d/0") == "ok")


def test_a_deep_tree(fs: Mounted) -> None:
    """Deeper than a path can be long."""
    depth = 2500
    with fs.tree() as t:
        top = t.opened(".", os.O_RDONLY)
        t.several([("mkdir", "d"), ("chdir", "d")] * depth)
        t.mknod("bottom")
        assert t.depth(top) == depth
        fs.run("restart", fs.instance.name)
        assert t.exists("d")


def test_the_same_file_opened_a_thousand_times(fs: Mounted) -> None:
    with fs.tree("f:4096") as t:
        fds = t.several([("open", "f", os.O_RDWR)] * 900)
        assert len(set(fds)) == 900
        t.unlink("f")
        assert t.fstat(fds[-1]).st_nlink == 0
        assert t.fstat(fds[0]).st_size == 4096


def test_names_of_a_directory_that_does_not_stop_growing(fs: Mounted) -> None:
    with fs.tree("d/") as t:
        for start in range(0, 2000, 1000):
            t.several([("mknod", f"d/{'n' * 200}{number}") for number in range(start, start + 1000)])
        assert len(t.listdir("d")) == 2000


if os.environ.get("GUESTMEMFS_LONG"):  # half a minute of nothing but link(2)

    def test_names_of_a_file_and_subdirectories_end_at_65000(fs: Mounted) -> None:
        with fs.tree("f a/ b/") as t:
            for start in range(1, LINK_MAX, 1000):
                last = min(LINK_MAX, start + 1000)
                t.several([("link", "f", f"a/{number}") for number in range(start, last)])
            assert t.tries.link("f", "a/more") == "EMLINK"
            assert t.stat("f").st_nlink == LINK_MAX
            t.unlink("a/1")
            assert t.tries.link("f", "a/more") == "ok"
            for start in range(2, LINK_MAX, 1000):
                last = min(LINK_MAX, start + 1000)
                t.several([("mkdir", f"b/{number}") for number in range(start, last)])
            t.mkdir("c")
            assert t.tries.mkdir("b/more") == t.tries.rename("c", "b/c") == "EMLINK"
            assert t.tries.mknod("b/file") == "ok"
            t.rmdir("b/2")
            assert t.tries.rename("c", "b/c") == "ok"
            for directory, call in (("a", "unlink"), ("b", "rmdir")):
                names = [f"{directory}/{name}" for name in t.listdir(directory) if name != "file"]
                for start in range(0, len(names), 1000):
                    t.several([(call, name) for name in names[start : start + 1000]])
