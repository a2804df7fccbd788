"""Every refusal decide can give, by the class of its error, and that every command has its rule."""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import pytest

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core import decide as decide_module
from guestmemfs_fuse.core import errors as err
from guestmemfs_fuse.core import image
from guestmemfs_fuse.core import records as rec
from guestmemfs_fuse.core.types import (
    FILE_MAX_BYTES,
    LINK_MAX,
    ROOT_INO,
    TIME_MAX_NS,
    TIME_MIN_NS,
    BackingId,
    BlockNumber,
    Extent,
    Ino,
    UserLimits,
)
from tests.unit.core.world import BLOCK_BYTES, BLOCKS, USER, World, empty_state

MISSING = Ino(999)
TOO_LONG = b"n" * 256


def furnished(*, extents: bool = False) -> World:
    """/file(2) /dir(3) /dir/sub(4) /link(5) /pipe(6) /pinned(7) /saved(8) orphan(9) removed directory(10)"""
    world = World(empty_state(extents=extents, limits=UserLimits(max_files=2, max_xattr_bytes=30)))
    assert world.make(b"file", uid=USER) == 2
    assert world.mkdir(b"dir") == 3
    assert world.mkdir(b"sub", parent=3) == 4
    assert world.make(b"link", kind=stat.S_IFLNK) == 5
    assert world.make(b"pipe", kind=stat.S_IFIFO) == 6
    assert world.make(b"pinned") == 7
    world.do(cmd.Resize(Ino(7), 5))
    world.do(cmd.Pin(Ino(7), True))
    assert world.make(b"saved") == 8
    world.do(cmd.Resize(Ino(8), 5))
    world.do(cmd.Mark(Ino(8), b"vm"))
    assert world.make(b"") == 9
    assert world.mkdir(b"gone") == 10
    world.do(cmd.Rmdir(ROOT_INO, b"gone"))
    world.do(cmd.SetXattr(Ino(2), b"user.a", b"12345"))
    return world


def make(name: bytes, parent: int = 1, mode: int = stat.S_IFREG | 0o600, uid: int = 0) -> cmd.Make:
    return cmd.Make(Ino(parent), name, mode, uid, 0)


def rename(name: bytes, new: bytes, parent: int = 1, to: int = 1, flags: int = 0) -> cmd.Rename:
    return cmd.Rename(Ino(parent), name, Ino(to), new, flags)


REFUSALS: list[tuple[cmd.Command, type[err.FsError]]] = [
    # make
    (make(b"x", parent=MISSING), err.StaleInodeError),
    (make(b"x", parent=2), err.NotDirectoryError),
    (make(b"file"), err.EntryExistsError),
    (make(b"dir", mode=stat.S_IFDIR), err.EntryExistsError),
    (make(TOO_LONG), err.NameTooLongFsError),
    (make(TOO_LONG, parent=2), err.NotDirectoryError),
    (make(b"x", parent=10), err.NoEntryError),
    (make(b"x", mode=0), err.InvalidCallError),
    (make(b"", mode=stat.S_IFDIR), err.InvalidCallError),
    (make(b"."), err.InvalidCallError),
    (make(b".."), err.InvalidCallError),
    (make(b"a/b"), err.InvalidCallError),
    (make(b"a\0b"), err.InvalidCallError),
    (make(b"x", mode=stat.S_IFLNK), err.NoEntryError),
    (replace(make(b"x", mode=stat.S_IFLNK), target=b"t" * 4096), err.NameTooLongFsError),
    # link
    (cmd.Link(MISSING, ROOT_INO, b"x"), err.StaleInodeError),
    (cmd.Link(Ino(3), ROOT_INO, b"x"), err.NotPermittedError),
    (cmd.Link(Ino(2), Ino(5), b"x"), err.NotDirectoryError),
    (cmd.Link(Ino(2), MISSING, b"x"), err.StaleInodeError),
    (cmd.Link(Ino(2), ROOT_INO, b"dir"), err.EntryExistsError),
    (cmd.Link(Ino(2), ROOT_INO, TOO_LONG), err.NameTooLongFsError),
    (cmd.Link(Ino(2), Ino(10), b"x"), err.NoEntryError),
    (cmd.Link(Ino(2), ROOT_INO, b""), err.InvalidCallError),
    # unlink, rmdir
    (cmd.Unlink(MISSING, b"x"), err.StaleInodeError),
    (cmd.Unlink(Ino(2), b"x"), err.NotDirectoryError),
    (cmd.Unlink(ROOT_INO, b"x"), err.NoEntryError),
    (cmd.Unlink(ROOT_INO, TOO_LONG), err.NameTooLongFsError),
    (cmd.Unlink(ROOT_INO, b"dir"), err.IsDirectoryError),
    (cmd.Unlink(ROOT_INO, b"pinned"), err.BusyFsError),
    (cmd.Unlink(ROOT_INO, b"saved"), err.BusyFsError),
    (cmd.Rmdir(ROOT_INO, b"file"), err.NotDirectoryError),
    (cmd.Rmdir(ROOT_INO, b"dir"), err.DirectoryNotEmptyError),
    (cmd.Rmdir(ROOT_INO, b"x"), err.NoEntryError),
    (cmd.Rmdir(ROOT_INO, b"."), err.InvalidCallError),
    (cmd.Rmdir(Ino(3), TOO_LONG), err.NameTooLongFsError),
    # rename
    (rename(b"x", b"y"), err.NoEntryError),
    (rename(b"file", b"y", parent=2), err.NotDirectoryError),
    (rename(b"file", b"y", to=2), err.NotDirectoryError),
    (rename(b"file", b"y", parent=MISSING), err.StaleInodeError),
    (rename(b"file", TOO_LONG), err.NameTooLongFsError),
    (rename(b"file", b"y", to=10), err.NoEntryError),
    (rename(b"file", b""), err.InvalidCallError),
    (rename(b"file", b"dir"), err.IsDirectoryError),
    (rename(b"dir", b"file"), err.NotDirectoryError),
    (rename(b"sub", b"dir", parent=3), err.DirectoryNotEmptyError),
    (rename(b"dir", b"x", to=3), err.InvalidCallError),
    (rename(b"dir", b"x", to=4), err.InvalidCallError),
    (rename(b"dir", b"sub", to=3), err.InvalidCallError),
    (rename(b"file", b"pinned"), err.BusyFsError),
    (rename(b"file", b"saved"), err.BusyFsError),
    (rename(b"file", b"link", flags=1), err.EntryExistsError),
    (rename(b"file", b"x", flags=2), err.NoEntryError),
    (rename(b"dir", b"sub", to=3, flags=2), err.InvalidCallError),
    (rename(b"sub", b"dir", parent=3, flags=2), err.InvalidCallError),
    (rename(b"file", b"link", flags=3), err.InvalidCallError),
    (rename(b"file", b"x", flags=4), err.InvalidCallError),
    # attributes
    (cmd.SetAttrs(MISSING, mode=0), err.StaleInodeError),
    (cmd.SetXattr(MISSING, b"user.a", b""), err.StaleInodeError),
    (cmd.SetXattr(Ino(2), b"trusted.a", b""), err.AttributeUnsupportedError),
    (cmd.SetXattr(Ino(2), b"user.", b""), err.InvalidCallError),
    (cmd.SetXattr(Ino(2), b"user.a", b"", flags=1), err.EntryExistsError),
    (cmd.SetXattr(Ino(2), b"user.b", b"", flags=2), err.NoAttributeError),
    (cmd.SetXattr(Ino(3), b"user." + b"n" * 251, b""), err.AttributeTooBigError),
    (cmd.SetXattr(Ino(3), b"user.b", b"v" * 65_537), err.AttributeTooBigError),
    (cmd.SetXattr(Ino(3), b"user.b", b"v" * 65_536), err.RegionFullError),
    (cmd.SetXattr(Ino(2), b"user.b", b"v" * 14), err.UserLimitError),
    (cmd.SetXattr(Ino(2), b"user.a", b"v" * 25), err.UserLimitError),
    (cmd.RemoveXattr(Ino(2), b"user.b"), err.NoAttributeError),
    (cmd.RemoveXattr(Ino(2), b"security.b"), err.AttributeUnsupportedError),
    (cmd.RemoveXattr(MISSING, b"user.b"), err.StaleInodeError),
    # memory
    (cmd.Resize(MISSING, 1), err.StaleInodeError),
    (cmd.Resize(Ino(3), 1), err.IsDirectoryError),
    (cmd.Resize(Ino(5), 1), err.InvalidCallError),
    (cmd.Resize(Ino(6), 1), err.InvalidCallError),
    (cmd.Resize(Ino(2), -1), err.InvalidCallError),
    (cmd.Resize(Ino(2), FILE_MAX_BYTES + 1), err.FileTooBigError),
    (cmd.Resize(Ino(7), 4), err.BusyFsError),
    (cmd.Resize(Ino(8), 4), err.BusyFsError),
    (cmd.Allocate(MISSING, 0, 1), err.StaleInodeError),
    (cmd.Allocate(Ino(3), 0, 1), err.IsDirectoryError),
    (cmd.Allocate(Ino(2), -1, 1), err.InvalidCallError),
    (cmd.Allocate(Ino(2), 0, 0), err.InvalidCallError),
    (cmd.Allocate(Ino(2), FILE_MAX_BYTES, 1), err.FileTooBigError),
    (cmd.Punch(Ino(2), 0, 0), err.InvalidCallError),
    (cmd.Punch(Ino(2), -1, 1), err.InvalidCallError),
    (cmd.Punch(Ino(6), 0, 1), err.InvalidCallError),
    (cmd.Punch(Ino(7), 0, 1), err.BusyFsError),
    (cmd.Punch(Ino(8), 0, 1), err.BusyFsError),
    (cmd.Reap(Ino(2)), err.BusyFsError),
    (cmd.Reap(MISSING), err.StaleInodeError),
    # the command line and the daemon
    (cmd.Pin(Ino(3), True), err.IsDirectoryError),
    (cmd.Pin(Ino(6), True), err.InvalidCallError),
    (cmd.Mark(Ino(3), b"vm"), err.IsDirectoryError),
    (cmd.OpenBacking(MISSING, BackingId(1)), err.StaleInodeError),
    (cmd.CloseBacking(MISSING), err.StaleInodeError),
    (cmd.Quarantine((Extent(BlockNumber(BLOCKS), 1),)), err.InvalidCallError),
    (cmd.Quarantine((Extent(BlockNumber(0), 0),)), err.InvalidCallError),
    (cmd.Quarantine((Extent(BlockNumber(-1), 1),)), err.InvalidCallError),
    (cmd.Quarantine((Extent(BlockNumber(1), 1 << 60),)), err.InvalidCallError),
    (cmd.ResizeRegion(0), err.InvalidCallError),
    (cmd.ResizeRegion(BLOCK_BYTES + 1), err.InvalidCallError),
]


@pytest.mark.parametrize(("command", "error"), REFUSALS, ids=lambda value: str(value)[:60])
def test_a_refusal_names_its_reason_and_changes_nothing(
    command: cmd.Command, error: type[err.FsError]
) -> None:
    world = furnished()
    before = list(image.dump(world.state))
    with pytest.raises(err.FsError) as refusal:
        world.decide(command)
    assert type(refusal.value) is error
    assert list(image.dump(world.state)) == before


def test_every_command_has_a_rule() -> None:
    assert set(get_args(cmd.Command)) == set(decide_module._RULES)


# -- limits ------------------------------------------------------------------------------------------


def test_a_user_may_own_so_many_files_and_root_as_many_as_it_likes() -> None:
    world = furnished()
    world.make(b"second", uid=USER)
    for command in (make(b"third", uid=USER), make(b"", uid=USER), cmd.SetAttrs(Ino(3), uid=USER)):
        with pytest.raises(err.UserLimitError):
            world.decide(command)
    world.do(cmd.SetAttrs(Ino(2), uid=USER))
    for number in range(5):
        world.make(b"root %d" % number)
    world.do(cmd.Unlink(ROOT_INO, b"second"))
    with pytest.raises(err.UserLimitError):
        world.decide(make(b"third", uid=USER))
    world.do(cmd.Reap(max(world.state.orphans)))
    world.do(make(b"third", uid=USER))


def test_attribute_bytes_move_with_the_owner_and_may_always_shrink() -> None:
    world = furnished()
    world.do(cmd.SetXattr(Ino(3), b"user.a", b"v" * 20))
    with pytest.raises(err.UserLimitError):
        world.decide(cmd.SetAttrs(Ino(3), uid=USER))
    world.do(cmd.SetXattr(Ino(2), b"user.a", b"v" * 24))
    world.do(cmd.SetXattr(Ino(2), b"user.a", b"v" * 2))
    world.do(cmd.SetXattr(Ino(3), b"user.a", b"v" * 9))
    world.do(cmd.SetAttrs(Ino(3), uid=USER))
    assert world.state.usage[USER].xattr_bytes == 8 + 15


@pytest.mark.parametrize(
    "ask",
    [
        lambda: cmd.Make(Ino(3), b"x", stat.S_IFDIR, 0, 0),
        lambda: rename(b"other", b"x", to=3),
        lambda: rename(b"other", b"file", to=3, flags=2),
        lambda: rename(b"file", b"other", parent=3, flags=2),
    ],
)
def test_a_directory_with_too_many_subdirectories_gets_no_more(ask: Callable[[], cmd.Command]) -> None:
    world = furnished()
    world.mkdir(b"other")
    world.make(b"file", parent=3)
    world[3].nlink = LINK_MAX
    with pytest.raises(err.TooManyLinksError):
        world.decide(ask())


def test_a_full_directory_still_exchanges_one_subdirectory_for_another() -> None:
    world = furnished()
    world.mkdir(b"other")
    world[3].nlink = LINK_MAX
    assert world.decide(rename(b"other", b"sub", to=3, flags=2))
    assert world.decide(rename(b"other", b"sub", to=3))
    assert world.decide(rename(b"sub", b"sub2", parent=3, to=3))


def test_a_file_with_too_many_names_gets_no_more() -> None:
    world = furnished()
    world[2].nlink = LINK_MAX
    with pytest.raises(err.TooManyLinksError):
        world.decide(cmd.Link(Ino(2), ROOT_INO, b"x"))


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
