"""Large directories: every entry once, from any offset, while entries come and go."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator

import pytest

from tests.mount.filesystem import Mounted, mounted
from tests.mount.posix.tree import Tree

MANY = 10_000


@pytest.fixture(scope="module")
def fs() -> Iterator[Mounted]:
    with mounted("directories") as made:
        yield made


@pytest.fixture(scope="module")
def big(fs: Mounted) -> Iterator[Tree]:
    """A tree with a directory of ten thousand names."""
    with fs.tree("d/") as tree:
        tree.several([("mknod", f"d/{number:05}") for number in range(MANY)])
        yield tree


def rest(t: Tree, fd: int, size: int = 32768) -> list[tuple[str, int]]:
    """(name, offset) of all entries that are left, in order."""
    found = []
    while some := t.entries(fd, size):
        found += [(os.fsdecode(name), offset) for name, _, offset, _ in some if name not in (b".", b"..")]
    return found


def test_ten_thousand_names_are_listed_once_each(big: Tree) -> None:
    for size in (512, 4096, 1 << 20):
        found = [name for name, _ in rest(big, big.opened("d", os.O_RDONLY), size)]
        assert sorted(found) == [f"{number:05}" for number in range(MANY)]


def test_offsets_lead_to_the_entry_behind_them(big: Tree) -> None:
    fd = big.opened("d", os.O_RDONLY)
    found = rest(big, fd)
    for at in random.Random(1).sample(range(MANY - 1), 50):
        big.lseek(fd, found[at][1], os.SEEK_SET)
        following = os.fsdecode(big.entries(fd, 512)[0][0])
        assert following == found[at + 1][0]


def test_entries_that_stay_are_seen_once_while_others_come_and_go(big: Tree) -> None:
    """Names 00000-09999 stay; before, between and behind them others are made and removed meanwhile."""
    dice = random.Random(2)
    fd = big.opened("d", os.O_RDONLY)
    found: list[str] = []
    made: list[str] = []
    fresh = iter(f"d/x{number}" for number in range(MANY))
    while some := big.entries(fd, 4096):
        found += [os.fsdecode(name) for name, *_ in some]
        new = [next(fresh) for _ in range(dice.randrange(8))]
        gone = [made.pop(dice.randrange(len(made))) for _ in range(min(len(made), dice.randrange(8)))]
        big.several([("mknod", name) for name in new] + [("unlink", name) for name in gone])
        made += new
    big.several([("unlink", name) for name in made])
    staying = [name for name in found if name[0] not in "x."]
    assert sorted(staying) == [f"{number:05}" for number in range(MANY)]
    assert len(found) == len(set(found))


def test_an_offset_stays_good_when_its_entry_is_gone(fs: Mounted) -> None:
    with fs.tree("d/") as t:
        t.several([("mknod", f"d/{number:03}") for number in range(300)])
        fd = t.opened("d", os.O_RDONLY)
        found = rest(t, fd)
        t.several([("unlink", f"d/{name}") for name, _ in found[100:200]])
        t.lseek(fd, found[150][1], os.SEEK_SET)
        assert rest(t, fd) == found[200:]
        t.lseek(fd, found[99][1], os.SEEK_SET)
        assert rest(t, fd) == found[200:]


def test_an_offset_stays_good_over_a_restart(fs: Mounted) -> None:
    with fs.tree("d/") as t:
        t.several([("mknod", f"d/{number:03}") for number in range(300)])
        fd = t.opened("d", os.O_RDONLY)
        first = [os.fsdecode(name) for name, *_ in t.entries(fd, 4096)]
        fs.run("restart", fs.instance.name)
        second = [name for name, _ in rest(t, fd)]
        assert sorted(first + second) == [".", "..", *(f"{number:03}" for number in range(300))]


def test_a_name_made_anew_is_listed_behind_the_others(fs: Mounted) -> None:
    with fs.tree("d/ d/a d/b d/c") as t:
        fd = t.opened("d", os.O_RDONLY)
        t.unlink("d/a")
        t.mknod("d/a")
        assert [name for name, _ in rest(t, fd)] == ["b", "c", "a"]


def test_everything_can_be_removed_while_it_is_listed(fs: Mounted) -> None:
    with fs.tree("d/") as t:
        t.several([("mknod", f"d/{number}") for number in range(2000)])
        fd = t.opened("d", os.O_RDONLY)
        while some := t.entries(fd, 2048):
            t.several([("unlink", b"d/" + name) for name, *_ in some if name not in (b".", b"..")])
        assert t.tries.rmdir("d") == "ok"
