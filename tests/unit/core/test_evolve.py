"""What single records do, where the model does not look: recent requests, sessions, orphans, extents."""

from __future__ import annotations

import stat

import pytest

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core import evolve
from guestmemfs_fuse.core import records as rec
from guestmemfs_fuse.core.check import problems
from guestmemfs_fuse.core.evolve import join, split
from guestmemfs_fuse.core.state import PAST_DEVICES, RECENT_REQUESTS
from guestmemfs_fuse.core.types import ROOT_INO, BackingId, BlockNumber, Extent, Ino, Unique
from tests.unit.core.world import BLOCK_BYTES, World, empty_state


def extent(start: int, count: int) -> Extent:
    return Extent(BlockNumber(start), count)


def test_every_record_has_a_meaning() -> None:
    for record in rec.RECORD_TYPES:
        assert evolve.evolve.dispatch(record) is not evolve.evolve.dispatch(object), record.__name__


def test_what_is_no_record_is_refused() -> None:
    with pytest.raises(AssertionError, match="no meaning"):
        evolve.evolve("a string", empty_state())


# -- requests that may come again --------------------------------------------------------------------


def answer(world: World, unique: int, ino: int) -> None:
    evolve.apply(world.state, rec.Transaction((rec.PinSet(ROOT_INO, False),), Unique(unique), Ino(ino)))


def test_the_last_requests_are_remembered_and_the_oldest_forgotten() -> None:
    world = World()
    for unique in range(2, 2 * RECENT_REQUESTS + 8, 2):
        answer(world, unique, unique + 1)
    assert len(world.state.recent) == RECENT_REQUESTS
    assert Unique(2) not in world.state.recent
    assert world.state.recent[Unique(2 * RECENT_REQUESTS + 6)] == 2 * RECENT_REQUESTS + 7


def test_what_the_daemon_does_itself_is_no_request() -> None:
    world = World()
    world.do(cmd.StartDaemon())
    assert not world.state.recent


def test_a_new_session_voids_requests_and_backing_ids_and_remembers_the_device() -> None:
    world = World()
    ino = world.make(b"file")
    world.do(cmd.StartSession(b"init 1", 40))
    world.do(cmd.OpenBacking(ino, BackingId(7)))
    answer(world, 10, 2)
    world.do(cmd.StartSession(b"init 2", 41))
    assert world[ino].backing_id is None
    assert not world.state.recent
    assert world.state.past_devices == (40,)
    assert world.state.devices == {40, 41}
    assert world.state.session is not None
    assert world.state.session.init_request == b"init 2"


def test_a_superblock_that_is_gone_is_not_remembered() -> None:
    world = World()
    ino = world.make(b"file")
    world.do(cmd.StartSession(b"", 40))
    world.do(cmd.StartSession(b"", 41))
    world.do(cmd.OpenBacking(ino, BackingId(7)))
    world.do(cmd.EndSession())
    assert world.state.session is None
    assert world.state.devices == {40}
    assert world[ino].backing_id is None
    world.do(cmd.EndSession())  # nothing is left to end
    assert world.state.devices == {40}


def test_past_devices_are_remembered_once_each_and_not_for_ever() -> None:
    world = World()
    for device in (1, 2, 1, 1, 3):
        world.do(cmd.StartSession(b"", device))
    assert world.state.past_devices == (2, 1)
    for device in range(100, 100 + 2 * PAST_DEVICES):
        world.do(cmd.StartSession(b"", device))
    assert len(world.state.past_devices) == PAST_DEVICES


# -- names -------------------------------------------------------------------------------------------


def test_an_orphan_gets_its_first_name_by_link() -> None:
    world = World()
    ino = world.make(b"")
    assert (world[ino].nlink, world.state.orphans) == (0, {ino})
    world.do(cmd.Link(ino, ROOT_INO, b"x"))
    assert (world[ino].nlink, world.state.orphans) == (1, set())


def test_a_file_renamed_over_keeps_existing_until_it_is_reaped() -> None:
    world = World(empty_state(extents=True))
    old, new = world.make(b"old"), world.make(b"new")
    world.do(cmd.Resize(old, 3 * BLOCK_BYTES))
    world.do(cmd.Rename(ROOT_INO, b"new", ROOT_INO, b"old"))
    assert world.state.root.directory is not None
    assert dict(world.state.root.directory.items()) == {b"old": new}
    assert world.state.orphans == {old}
    assert world.state.free is not None
    assert world.state.free.used_blocks == 3
    world.do(cmd.Reap(old))
    assert old not in world.state.inodes
    assert world.state.free.used_blocks == 0


def test_inode_numbers_are_not_reused_after_reaping() -> None:
    world = World()
    first = world.make(b"")
    world.do(cmd.Reap(first))
    assert world.make(b"") == first + 1


def test_a_directory_moved_elsewhere_has_another_parent_and_both_count_it() -> None:
    world = World()
    a, b = world.mkdir(b"a"), world.mkdir(b"b")
    moved = world.mkdir(b"moved", parent=a)
    assert (world[a].nlink, world[b].nlink) == (3, 2)
    world.do(cmd.Rename(a, b"moved", b, b"here"))
    assert (world[a].nlink, world[b].nlink) == (2, 3)
    directory = world[moved].directory
    assert directory is not None
    assert directory.parent == b


def test_exchanging_keeps_both_places_in_the_listing() -> None:
    world = World()
    a, b = world.mkdir(b"a"), world.make(b"b")
    world.make(b"c")
    directory = world.state.root.directory
    assert directory is not None
    before = [(cookie, name) for cookie, name, _ in directory.after(0)]
    world.do(cmd.Rename(ROOT_INO, b"a", ROOT_INO, b"b", 2))
    assert [(cookie, name) for cookie, name, _ in directory.after(0)] == before
    assert (directory.get(b"a"), directory.get(b"b")) == (b, a)


def test_a_user_without_files_is_forgotten() -> None:
    world = World()
    ino = world.make(b"", uid=1000)
    assert world.state.usage[1000].files == 1
    world.do(cmd.Reap(ino))
    assert 1000 not in world.state.usage


def test_repair_sets_links_parent_and_orphans() -> None:
    world = World()
    file, directory = world.make(b"f"), world.mkdir(b"d")
    world[file].nlink = 5
    assert [problem.kind for problem in problems(world.state)] == ["wrong-nlink"]
    evolve.evolve(rec.Repaired(file, 1), world.state)
    assert list(problems(world.state)) == []
    inner = world.mkdir(b"inner", parent=directory)
    inner_directory = world[inner].directory
    assert inner_directory is not None
    inner_directory.parent = ROOT_INO
    evolve.evolve(rec.Repaired(inner, 2, directory), world.state)
    assert list(problems(world.state)) == []
    evolve.evolve(rec.Repaired(file, 0), world.state)
    assert file in world.state.orphans
    evolve.evolve(rec.Repaired(file, 1), world.state)
    assert file not in world.state.orphans


# -- sizes and blocks --------------------------------------------------------------------------------


def test_a_symbolic_link_is_as_long_as_its_target() -> None:
    world = World()
    ino = world.make(b"l", kind=stat.S_IFLNK)
    assert (world[ino].size_bytes, world[ino].target) == (9, b"somewhere")


def test_a_quarantined_block_of_a_file_stays_with_it_until_it_is_cut() -> None:
    world = World(empty_state(extents=True))
    ino = world.make(b"f")
    world.do(cmd.Resize(ino, 4 * BLOCK_BYTES))
    world.do(cmd.Quarantine((extent(2, 1), extent(9, 1))))
    assert world[ino].extents == (extent(0, 4),)
    world.do(cmd.Resize(ino, 0))
    assert world.state.free is not None
    assert world.state.free.free_extents() == (extent(0, 2), extent(3, 6), extent(10, 6))


def test_a_record_that_quarantines_beyond_the_region_does_not_fit() -> None:
    """A count of 2^60 from a damaged record must not run for ever."""
    with pytest.raises(AssertionError, match="outside"):
        evolve.evolve(rec.Quarantined((extent(1, 1 << 60),)), empty_state(extents=True))


def test_extents_that_touch_are_joined_in_file_order() -> None:
    assert join((extent(4, 2), extent(6, 1), extent(0, 4), extent(4, 1))) == (extent(4, 3), extent(0, 5))
    assert join(()) == ()


@pytest.mark.parametrize(
    ("blocks", "kept", "cut"),
    [
        (0, (), (extent(4, 2), extent(0, 3))),
        (1, (extent(4, 1),), (extent(5, 1), extent(0, 3))),
        (2, (extent(4, 2),), (extent(0, 3),)),
        (4, (extent(4, 2), extent(0, 2)), (extent(2, 1),)),
        (9, (extent(4, 2), extent(0, 3)), ()),
    ],
)
def test_a_file_is_split_at_a_block(blocks: int, kept: tuple[Extent, ...], cut: tuple[Extent, ...]) -> None:
    assert split((extent(4, 2), extent(0, 3)), blocks) == (kept, cut)
