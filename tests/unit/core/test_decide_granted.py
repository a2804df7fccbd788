"""What decide grants, and how: inheritance, frozen instances, blocks."""

from __future__ import annotations

import stat
from typing import get_args

import pytest

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core import errors as err
from guestmemfs_fuse.core import records as rec
from guestmemfs_fuse.core.types import (
    ROOT_INO,
    TIME_MAX_NS,
    TIME_MIN_NS,
    BackingId,
    BlockNumber,
    Extent,
    Ino,
)
from tests.unit.core.furnished import TOO_LONG, furnished, make, rename
from tests.unit.core.world import BLOCK_BYTES, BLOCKS

# -- what is granted ---------------------------------------------------------------------------------


def test_a_setgid_directory_gives_its_group_and_its_bit_to_directories() -> None:
    world = furnished()
    world.do(cmd.SetAttrs(Ino(3), mode=0o2755, gid=55))
    (file,) = world.decide(make(b"x", parent=3))
    (directory,) = world.decide(make(b"x", parent=3, mode=stat.S_IFDIR | 0o700))
    assert isinstance(file, rec.Made)
    assert isinstance(directory, rec.Made)
    assert (file.gid, file.mode & stat.S_ISGID) == (55, 0)
    assert (directory.gid, directory.mode & stat.S_ISGID) == (55, stat.S_ISGID)


def test_only_device_files_have_a_device_number() -> None:
    world = furnished()
    for kind, expected in ((stat.S_IFCHR, 7), (stat.S_IFBLK, 7), (stat.S_IFREG, 0), (stat.S_IFSOCK, 0)):
        (made,) = world.decide(cmd.Make(ROOT_INO, b"x", kind, 0, 0, rdev=7))
        assert isinstance(made, rec.Made)
        assert made.rdev == expected


def test_chmod_keeps_the_file_type() -> None:
    (record,) = furnished().decide(cmd.SetAttrs(Ino(2), mode=stat.S_IFDIR | 0o7777))
    assert isinstance(record, rec.AttrsSet)
    assert record.mode == stat.S_IFREG | 0o7777


@pytest.mark.parametrize(("asked", "stored"), [(1 << 64, TIME_MAX_NS), (-(1 << 70), TIME_MIN_NS), (-5, -5)])
def test_regression_a_time_beyond_64_bits_of_nanoseconds_is_clamped(asked: int, stored: int) -> None:
    """utimensat(2) with a year of 10^12 must not become something the journal cannot hold."""
    (record,) = furnished().decide(cmd.SetAttrs(Ino(2), atime_ns=asked, mtime_ns=asked))
    assert isinstance(record, rec.AttrsSet)
    assert (record.atime_ns, record.mtime_ns) == (stored, stored)


def test_regression_a_name_too_long_below_a_file_is_not_a_directory_first() -> None:
    with pytest.raises(err.NotDirectoryError):
        furnished().decide(cmd.Rmdir(Ino(2), TOO_LONG))


def test_regression_moving_a_directory_into_a_removed_one_is_no_entry() -> None:
    world = furnished()
    world.mkdir(b"above")
    inner = world.mkdir(b"inner", parent=11)
    world.do(cmd.Rmdir(Ino(11), b"inner"))
    world.do(cmd.Rmdir(ROOT_INO, b"above"))
    world.do(cmd.Reap(Ino(11)))
    with pytest.raises(err.NoEntryError):
        world.decide(rename(b"dir", b"x", to=inner))


def test_renaming_one_name_of_a_file_over_another_does_nothing() -> None:
    world = furnished()
    world.do(cmd.Link(Ino(2), Ino(3), b"too"))
    assert world.decide(rename(b"file", b"too", to=3)) == ()
    assert world.decide(rename(b"file", b"too", to=3, flags=2)) == ()
    assert world.decide(rename(b"pinned", b"pinned")) == ()


def test_a_pinned_file_may_be_renamed_linked_grown_and_changed() -> None:
    world = furnished()
    for command in (
        rename(b"pinned", b"x"),
        rename(b"file", b"pinned", flags=2),
        cmd.Link(Ino(7), ROOT_INO, b"x"),
        cmd.Resize(Ino(7), 500),
        cmd.Resize(Ino(7), 1, force=True),
        cmd.Allocate(Ino(7), 0, 100),
        cmd.SetAttrs(Ino(7), mode=0),
    ):
        assert world.decide(command)


def test_asking_for_what_is_already_so_changes_nothing() -> None:
    world = furnished()
    for command in (
        cmd.Pin(Ino(7), True),
        cmd.Mark(Ino(8), b"vm"),
        cmd.Freeze(False),
        cmd.CloseBacking(Ino(2)),
        cmd.ResizeRegion(BLOCKS * BLOCK_BYTES),
        cmd.Quarantine(()),
    ):
        assert world.decide(command) == ()


# -- frozen ------------------------------------------------------------------------------------------

EVEN_WHEN_FROZEN: list[cmd.Command] = [
    cmd.Freeze(False),
    cmd.StartDaemon(),
    cmd.StartSession(b"init", 4),
    cmd.EndSession(),
    cmd.OpenBacking(Ino(2), BackingId(5)),
    cmd.CloseBacking(Ino(2)),
    cmd.Quarantine((Extent(BlockNumber(1), 1),)),
]
NOT_WHEN_FROZEN: list[cmd.Command] = [
    make(b"x"),
    cmd.Link(Ino(2), ROOT_INO, b"x"),
    cmd.Unlink(ROOT_INO, b"file"),
    cmd.Rmdir(Ino(3), b"sub"),
    rename(b"file", b"x"),
    cmd.SetAttrs(Ino(2), mode=0),
    cmd.Resize(Ino(2), 5),
    cmd.Resize(Ino(2), 5, force=True),
    cmd.Allocate(Ino(2), 0, 5),
    cmd.Punch(Ino(2), 0, 5),
    cmd.SetXattr(Ino(2), b"user.b", b""),
    cmd.RemoveXattr(Ino(2), b"user.a"),
    cmd.Reap(Ino(9)),
    cmd.Pin(Ino(2), True),
    cmd.Mark(Ino(2), b"x"),
    cmd.ResizeRegion(BLOCK_BYTES),
]


def test_a_frozen_instance_refuses_every_modification_and_nothing_else() -> None:
    asked = {type(command) for command in EVEN_WHEN_FROZEN + NOT_WHEN_FROZEN}
    assert asked == set(get_args(cmd.Command))
    world = furnished()
    for command in NOT_WHEN_FROZEN:
        assert world.decide(command), command
    world.do(cmd.Freeze(True))
    for command in NOT_WHEN_FROZEN:
        with pytest.raises(err.BusyFsError, match="frozen"):
            world.decide(command)
    for command in EVEN_WHEN_FROZEN:
        world.decide(command)
    world.do(cmd.Freeze(False))
    for command in NOT_WHEN_FROZEN:
        assert world.decide(command)


# -- extents -----------------------------------------------------------------------------------------


def test_memory_that_is_not_there_is_refused_when_it_is_asked_for() -> None:
    world = furnished(extents=True)
    free = BLOCKS - 2
    with pytest.raises(err.RegionFullError):
        world.decide(cmd.Resize(Ino(2), (free + 1) * BLOCK_BYTES))
    with pytest.raises(err.RegionFullError):
        world.decide(cmd.Allocate(Ino(2), 0, free * BLOCK_BYTES + 1, keep_size=True))
    world.do(cmd.Resize(Ino(2), free * BLOCK_BYTES))
    assert world.state.free is not None
    assert world.state.free.free_blocks == 0


def test_blocks_follow_the_size_and_the_preallocation() -> None:
    world = furnished(extents=True)

    def blocks_after(command: cmd.Command) -> int:
        world.do(command)
        return world[2].block_count

    assert blocks_after(cmd.Resize(Ino(2), 1)) == 1
    assert blocks_after(cmd.Resize(Ino(2), BLOCK_BYTES)) == 1
    assert blocks_after(cmd.Allocate(Ino(2), 0, 4 * BLOCK_BYTES, keep_size=True)) == 4
    assert world[2].size_bytes == BLOCK_BYTES
    assert blocks_after(cmd.Resize(Ino(2), 2 * BLOCK_BYTES)) == 4
    assert blocks_after(cmd.Punch(Ino(2), 0, BLOCK_BYTES)) == 4
    assert blocks_after(cmd.Allocate(Ino(2), BLOCK_BYTES, 1)) == 4
    assert blocks_after(cmd.Resize(Ino(2), 2 * BLOCK_BYTES)) == 2
    assert blocks_after(cmd.Resize(Ino(2), 0)) == 0


def test_a_quarantined_block_is_recorded_once() -> None:
    world = furnished(extents=True)

    def bad(start: int, count: int) -> cmd.Quarantine:
        return cmd.Quarantine((Extent(BlockNumber(start), count),))

    world.do(bad(4, 2))
    assert world.decide(bad(4, 1)) == ()
    (record,) = world.decide(bad(3, 4))
    assert record == rec.Quarantined((Extent(BlockNumber(3), 1), Extent(BlockNumber(6), 1)))


def test_a_region_shrinks_only_over_free_blocks() -> None:
    world = furnished(extents=True)
    world.do(cmd.Resize(Ino(2), 3 * BLOCK_BYTES))
    with pytest.raises(err.BusyFsError):
        world.decide(cmd.ResizeRegion(4 * BLOCK_BYTES))
    world.do(cmd.ResizeRegion(5 * BLOCK_BYTES))
    assert world.state.free is not None
    assert world.state.free.free_blocks == 0
    with pytest.raises(err.BusyFsError):
        world.decide(cmd.ResizeRegion(4 * BLOCK_BYTES))
    world.do(cmd.ResizeRegion(7 * BLOCK_BYTES))
    world.do(cmd.Quarantine((Extent(BlockNumber(6), 1),)))
    with pytest.raises(err.BusyFsError):
        world.decide(cmd.ResizeRegion(5 * BLOCK_BYTES))
