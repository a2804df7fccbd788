"""What is asked again costs no round trip, and is never old."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from tests.mount.filesystem import MIB, PUNCH, Mounted, mapped, mounted
from tests.mount.posix.tree import Tree

AGAIN = 200


@pytest.fixture(scope="module")
def fs() -> Iterator[Mounted]:
    with mounted("cache") as made:
        yield made


def asked(fs: Mounted) -> dict[str, int]:
    """Requests so far, by kind, without those that closing files causes."""
    counts: dict[str, int] = fs.relay()["requests"]
    return {
        name: count
        for name, count in counts.items()
        if name not in ("forget", "batch_forget", "release", "flush")
    }


def grown(fs: Mounted, before: dict[str, int]) -> dict[str, int]:
    """Which kinds of request there are more of than before."""
    return {
        name: count - before.get(name, 0) for name, count in asked(fs).items() if count > before.get(name, 0)
    }


@pytest.mark.parametrize(
    "given,path",
    [
        ("f", "f"),
        (f"f:{8 * MIB}", "f"),
        ("f:5000", "f"),
        ("d/ d/e/ d/e/f:100", "d/e/f"),
        ("d/", "d"),
        ("f l->f", "l"),
        ("p|", "p"),
        ("d/", "d/no-such-name"),
    ],
)
def test_a_repeated_stat_costs_no_round_trip(fs: Mounted, given: str, path: str) -> None:
    with fs.tree(given) as t:
        t.tries.stat(path)
        t.exists(path)  # following a symlink for the first time makes the kernel ask once more
        before = asked(fs)
        t.several([("exists", path)] * AGAIN)
        t.alice.several([("exists", path)] * AGAIN)
        assert grown(fs, before) == {}


def test_a_repeated_stat_of_an_open_file_costs_no_round_trip(fs: Mounted) -> None:
    with fs.tree(f"f:{8 * MIB}") as t:
        fd = t.opened("f")
        t.fstat(fd)
        before = asked(fs)
        t.several([("fstat", fd)] * AGAIN)
        assert grown(fs, before) == {}


def test_a_repeated_stat_of_a_mapped_file_costs_no_round_trip(fs: Mounted) -> None:
    with fs.tree(f"f:{8 * MIB}") as t:
        mapping = mapped(t, "f", 8 * MIB)
        t.touch(mapping, 8 * MIB)
        t.stat("f")
        before = asked(fs)
        t.several([("stat", "f")] * AGAIN)
        assert grown(fs, before) == {}


def test_permission_checks_and_symlinks_cost_no_round_trip(fs: Mounted) -> None:
    with fs.tree("d/ d/f l->d") as t:
        t.alice.tries.access("l/f", os.R_OK)
        t.alice.readlink("l")
        before = asked(fs)
        t.alice.several([("access", "l/f", os.R_OK), ("readlink", "l")] * AGAIN)
        assert grown(fs, before) == {}


def test_a_file_with_holes_is_asked_for_each_time_until_it_is_full(fs: Mounted) -> None:
    with fs.tree(f"f:{4 * MIB}") as t:
        mapping = mapped(t, "f", 4 * MIB)
        t.fallocate(t.opened("f"), PUNCH, 0, 2 * MIB)
        before = asked(fs)
        t.several([("stat", "f")] * AGAIN)
        assert grown(fs, before) == {"getattr": AGAIN}
        t.touch(mapping, 4 * MIB)
        t.stat("f")
        before = asked(fs)
        t.several([("stat", "f")] * AGAIN)
        assert grown(fs, before) == {}


# Every change, and what it must be seen to have changed, by two users who have looked before.
CHANGES: dict[str, tuple[str, Callable[[Tree], object], tuple[str, ...]]] = {
    "mkdir": ("d/", lambda t: t.mkdir("d/x"), ("d", "d/x")),
    "mknod": ("d/", lambda t: t.mknod("d/x"), ("d", "d/x")),
    "create": ("d/", lambda t: t.opens("d/x", os.O_CREAT), ("d", "d/x")),
    "symlink": ("d/", lambda t: t.symlink("y", "d/x"), ("d", "d/x")),
    "link": ("d/ f", lambda t: t.link("f", "d/x"), ("d", "d/x", "f")),
    "unlink": ("d/ d/x", lambda t: t.unlink("d/x"), ("d", "d/x")),
    "unlink of a second name": ("d/ d/x+y", lambda t: t.unlink("y"), ("d/x", "y")),
    "rmdir": ("d/ d/x/", lambda t: t.rmdir("d/x"), ("d", "d/x")),
    "rename": ("d/ d/x e/", lambda t: t.rename("d/x", "e/x"), ("d", "e", "d/x", "e/x")),
    "rename of a directory": ("d/ d/x/ e/", lambda t: t.rename("d/x", "e/x"), ("d", "e", "d/x", "e/x")),
    "rename over": ("d/ d/x d/y+z", lambda t: t.rename("d/x", "d/y"), ("d", "d/x", "d/y", "z")),
    "exchange": ("d/ d/x/ f", lambda t: t.rename("d/x", "f", 2), ("d", "d/x", "f", ".")),
    "chmod": ("f", lambda t: t.chmod("f", 0o600), ("f",)),
    "chmod by another name": ("f+g", lambda t: t.chmod("f", 0o600), ("f", "g")),
    "chown": ("f", lambda t: t.chown("f", 5, 6), ("f",)),
    "utimens": ("f", lambda t: t.utimens("f", (5, 6)), ("f",)),
    "truncate": ("f:100", lambda t: t.truncate("f", 5000), ("f",)),
    "truncate to less": (f"f:{4 * MIB}", lambda t: t.truncate("f", 5), ("f",)),
    "truncate on opening": ("f:100", lambda t: t.opens("f", os.O_WRONLY | os.O_TRUNC), ("f",)),
    "fallocate": ("f:100", lambda t: t.fallocate(t.opened("f"), 0, 0, 4 * MIB), ("f",)),
    "fallocate, keeping the size": ("f:100", lambda t: t.fallocate(t.opened("f"), 1, 0, 4 * MIB), ("f",)),
    "punch": (f"f:{4 * MIB}", lambda t: t.fallocate(t.opened("f"), PUNCH, 0, 2 * MIB), ("f",)),
    "setxattr": ("f", lambda t: t.setxattr("f", "user.a", b"v"), ("f",)),
    "a name for a nameless file": (
        "d/",
        lambda t: t.linkat(t.opened("d", os.O_TMPFILE | os.O_RDWR), "", "d/x", 0x1000),
        ("d", "d/x"),
    ),
}

FIGURES = (
    "st_mode",
    "st_ino",
    "st_nlink",
    "st_uid",
    "st_gid",
    "st_size",
    "st_blocks",
    "st_mtime_ns",
    "st_ctime_ns",
)


def seen(tries: object, paths: tuple[str, ...]) -> dict[str, object]:
    """What a user sees at each path."""
    found = {path: tries.lstat(path) for path in paths}  # type: ignore[attr-defined]
    return {
        path: at if isinstance(at, str) else tuple(getattr(at, each) for each in FIGURES)
        for path, at in found.items()
    }


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_seen_at_once_by_everybody(fs: Mounted, name: str) -> None:
    given, change, paths = CHANGES[name]
    with fs.tree(given) as t:
        before = seen(t.tries, paths), seen(t.alice.tries, paths)
        change(t)
        after = seen(t.alice.tries, paths), seen(t.tries, paths)
        assert before[0] == before[1] and after[0] == after[1]
        assert all(before[0][path] != after[0][path] for path in paths if path != "."), (before[0], after[0])
        # What the kernel has cached is what the daemon says: asked again with all caches dropped.
        t.drop_caches()
        assert seen(t.tries, paths) == after[0]


def test_what_is_cached_is_right_after_a_restart(fs: Mounted) -> None:
    with fs.tree(f"d/ d/f:{4 * MIB}~640@alice l->d") as t:
        paths = ("d", "d/f", "l", "d/no")
        before = seen(t.tries, paths)
        fs.run("restart", fs.instance.name)
        assert seen(t.tries, paths) == before
        t.drop_caches()
        assert seen(t.tries, paths) == before
        t.truncate("d/f", 5)
        assert t.stat("d/f").st_size == 5
