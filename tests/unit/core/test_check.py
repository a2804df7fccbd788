"""check finds each damage that is planted, and says nothing about a sound state."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable

import pytest

from guestmemfs_fuse.core import check
from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.check import problems
from guestmemfs_fuse.core.directory import Directory
from guestmemfs_fuse.core.state import UserUsage
from guestmemfs_fuse.core.types import ROOT_INO, BlockNumber, Extent, Ino
from tests.unit.core.world import BLOCK_BYTES, BLOCKS, World, empty_state

FILE, DIRECTORY, INNER, ORPHAN, OTHER = Ino(2), Ino(3), Ino(4), Ino(5), Ino(6)


def sound(*, extents: bool = True) -> World:
    """/file, /dir, /dir/inner, an orphan, /other."""
    world = World(empty_state(extents=extents))
    assert world.make(b"file", uid=1000) == FILE
    assert world.mkdir(b"dir") == DIRECTORY
    assert world.mkdir(b"inner", parent=DIRECTORY) == INNER
    assert world.make(b"") == ORPHAN
    assert world.make(b"other") == OTHER
    world.do(cmd.Resize(FILE, 3 * BLOCK_BYTES))
    world.do(cmd.Resize(OTHER, BLOCK_BYTES))
    world.do(cmd.SetXattr(FILE, b"user.a", b"1"))
    return world


def entries(world: World, ino: Ino) -> Directory:
    directory = world[ino].directory
    assert directory is not None
    return directory


def no_root(world: World) -> None:
    del world.state.inodes[ROOT_INO]


def root_is_a_file(world: World) -> None:
    world[ROOT_INO].directory = None


def number_reused(world: World) -> None:
    world.state.next_ino = OTHER


def dangling(world: World) -> None:
    entries(world, DIRECTORY).add(b"x", Ino(77))


def wrong_parent(world: World) -> None:
    entries(world, INNER).parent = ROOT_INO


def directory_linked_twice(world: World) -> None:
    entries(world, ROOT_INO).add(b"again", INNER)


def wrong_nlink(world: World) -> None:
    world[FILE].nlink += 1


def wrong_nlink_of_a_directory(world: World) -> None:
    world[DIRECTORY].nlink = 2


def orphan_with_a_name(world: World) -> None:
    world.state.orphans.add(FILE)


def orphan_not_listed(world: World) -> None:
    world.state.orphans.clear()


def directory_without_entries(world: World) -> None:
    world[DIRECTORY].directory = None


def file_with_entries(world: World) -> None:
    world[ORPHAN].directory = Directory(ROOT_INO)


def negative_size(world: World) -> None:
    world[ORPHAN].size_bytes = -1


def ring(world: World) -> None:
    """Two directories that lead to each other, and nothing to them."""
    world.mkdir(b"b", parent=INNER)
    entries(world, ROOT_INO).remove(b"dir")
    world[ROOT_INO].nlink -= 1
    entries(world, Ino(7)).add(b"dir", DIRECTORY)
    entries(world, DIRECTORY).parent = Ino(7)
    world[Ino(7)].nlink += 1


def wrong_usage(world: World) -> None:
    world.state.usage[1000].files = 7


def wrong_attribute_usage(world: World) -> None:
    world.state.usage[1000].xattr_bytes = 1


def usage_of_nobody(world: World) -> None:
    world.state.usage[5] = UserUsage(files=1)


def size_beyond_blocks(world: World) -> None:
    world[OTHER].size_bytes = 2 * BLOCK_BYTES


def overlap(world: World) -> None:
    world[OTHER].extents = (Extent(BlockNumber(2), 1),)


def outside_region(world: World) -> None:
    world[OTHER].extents = (Extent(BlockNumber(BLOCKS), 1),)


def leaked(world: World) -> None:
    assert world.state.free is not None
    world.state.free.take((Extent(BlockNumber(10), 2),))


PLANTED: list[tuple[Callable[[World], None], str, Ino]] = [
    (no_root, "no-root", ROOT_INO),
    (root_is_a_file, "no-root", ROOT_INO),
    (number_reused, "number-reused", OTHER),
    (dangling, "dangling-entry", DIRECTORY),
    (wrong_parent, "wrong-parent", INNER),
    (directory_linked_twice, "directory-linked-twice", INNER),
    (wrong_nlink, "wrong-nlink", FILE),
    (wrong_nlink_of_a_directory, "wrong-nlink", DIRECTORY),
    (orphan_with_a_name, "wrong-orphan", FILE),
    (orphan_not_listed, "wrong-orphan", ORPHAN),
    (directory_without_entries, "wrong-type", DIRECTORY),
    (file_with_entries, "wrong-type", ORPHAN),
    (negative_size, "wrong-size", ORPHAN),
    (ring, "unreachable", DIRECTORY),
    (wrong_usage, "wrong-usage", ROOT_INO),
    (wrong_attribute_usage, "wrong-usage", ROOT_INO),
    (usage_of_nobody, "wrong-usage", ROOT_INO),
    (size_beyond_blocks, "size-beyond-blocks", OTHER),
    (overlap, "overlap", OTHER),
    (outside_region, "outside-region", OTHER),
    (leaked, "leaked-blocks", ROOT_INO),
]


@pytest.mark.parametrize(("plant", "kind", "ino"), PLANTED, ids=lambda value: getattr(value, "__name__", ""))
def test_planted_damage_is_found(plant: Callable[[World], None], kind: str, ino: Ino) -> None:
    world = sound()
    assert list(problems(world.state)) == []
    plant(world)
    found = list(problems(world.state))
    assert (kind, ino) in [(problem.kind, problem.ino) for problem in found]
    assert all(problem.detail and "\n" not in problem.detail for problem in found)


def test_every_kind_of_problem_has_been_planted() -> None:
    kinds = set(re.findall(r'Problem\(\s*"([a-z-]+)"', inspect.getsource(check)))
    assert kinds == {kind for _, kind, _ in PLANTED}


def test_without_extents_blocks_are_not_looked_at() -> None:
    world = sound(extents=False)
    assert list(problems(world.state)) == []
    world[OTHER].extents = (Extent(BlockNumber(2), 1),)
    assert list(problems(world.state)) == []
