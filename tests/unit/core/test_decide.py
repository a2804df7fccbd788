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
from guestmemfs_fuse.core.types import (
    FILE_MAX_BYTES,
    LINK_MAX,
    ROOT_INO,
    BackingId,
    BlockNumber,
    Extent,
    Ino,
)
from tests.unit.core.furnished import MISSING, TOO_LONG, furnished, make, rename
from tests.unit.core.world import BLOCK_BYTES, BLOCKS, USER

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
