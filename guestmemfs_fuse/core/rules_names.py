"""Rules for names: make, link, unlink, rmdir, rename.

Each rule reads a State and returns the records that carry its command out, or raises an FsError.
Called by core/decide.
"""

from __future__ import annotations

import stat

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core import errors as err
from guestmemfs_fuse.core import records as rec
from guestmemfs_fuse.core.lookup import (
    directory_of,
    existing,
    inode_of,
    lookup,
    require_room_for,
    require_unpinned,
    require_user_room,
)
from guestmemfs_fuse.core.state import Inode, State
from guestmemfs_fuse.core.types import LINK_MAX, RENAME_EXCHANGE, RENAME_NOREPLACE, SYMLINK_MAX_BYTES, Ino

Records = tuple[rec.Record, ...]

_FILE_TYPES = (
    stat.S_IFREG,
    stat.S_IFDIR,
    stat.S_IFLNK,
    stat.S_IFIFO,
    stat.S_IFSOCK,
    stat.S_IFCHR,
    stat.S_IFBLK,
)


def make(command: cmd.Make, state: State, now_ns: int) -> Records:
    parent = inode_of(state, command.parent)
    directory_of(state, command.parent)
    kind = stat.S_IFMT(command.mode)
    if kind not in _FILE_TYPES:
        raise err.InvalidCallError("not a file type")
    if command.name:
        require_room_for(state, command.parent, command.name)
    elif kind != stat.S_IFREG:
        raise err.InvalidCallError("only regular files can be made without a name")
    if len(command.target) > SYMLINK_MAX_BYTES:
        raise err.NameTooLongFsError()
    if kind == stat.S_IFLNK and not command.target:
        raise err.NoEntryError("an empty symbolic link")
    if kind == stat.S_IFDIR and parent.nlink >= LINK_MAX:
        raise err.TooManyLinksError()
    require_user_room(state, command.uid, files=1, xattr_bytes=0)
    mode, gid = command.mode, command.gid
    if parent.mode & stat.S_ISGID:
        gid = parent.gid
        mode |= stat.S_ISGID if kind == stat.S_IFDIR else 0
    rdev = command.rdev if kind in (stat.S_IFCHR, stat.S_IFBLK) else 0
    made = rec.Made(
        command.parent,
        command.name,
        state.next_ino,
        mode,
        command.uid,
        gid,
        rdev,
        command.target,
        now_ns,
    )
    if command.backing_id is None:
        return (made,)
    return (made, rec.BackingOpened(state.next_ino, command.backing_id))


def link(command: cmd.Link, state: State, now_ns: int) -> Records:
    inode = inode_of(state, command.ino)
    if inode.is_dir:
        raise err.NotPermittedError("directories have one name")
    require_room_for(state, command.new_parent, command.new_name)
    if inode.nlink == 0 and command.ino not in state.orphans:
        raise err.NoEntryError()
    if inode.nlink >= LINK_MAX:
        raise err.TooManyLinksError()
    return (rec.Linked(command.new_parent, command.new_name, command.ino, now_ns),)


def unlink(command: cmd.Unlink, state: State, now_ns: int) -> Records:
    inode = existing(state, command.parent, command.name)
    if inode.is_dir:
        raise err.IsDirectoryError()
    require_unpinned(inode)
    return (rec.Unlinked(command.parent, command.name, now_ns),)


def rmdir(command: cmd.Rmdir, state: State, now_ns: int) -> Records:
    if command.name == b".":
        raise err.InvalidCallError()
    inode = existing(state, command.parent, command.name)
    if inode.directory is None:
        raise err.NotDirectoryError()
    if len(inode.directory):
        raise err.DirectoryNotEmptyError()
    return (rec.Unlinked(command.parent, command.name, now_ns),)


def rename(command: cmd.Rename, state: State, now_ns: int) -> Records:
    exchange = bool(command.flags & RENAME_EXCHANGE)
    if command.flags & ~(RENAME_EXCHANGE | RENAME_NOREPLACE) or (
        exchange and command.flags & RENAME_NOREPLACE
    ):
        raise err.InvalidCallError("unknown rename flags")
    moved = existing(state, command.parent, command.name)
    target = lookup(state, command.new_parent, command.new_name)
    if state.inodes[command.new_parent].nlink == 0:
        raise err.NoEntryError("the directory was removed")
    _require_no_loop(state, moved, command.new_parent)
    if exchange:
        if target is None:
            raise err.NoEntryError()
        _require_no_loop(state, target, command.parent)
    elif target is None:
        require_room_for(state, command.new_parent, command.new_name)
    elif command.flags & RENAME_NOREPLACE:
        raise err.EntryExistsError()
    if target is moved:
        return ()
    if target is not None and not exchange:
        _require_replaceable(moved, target)
    _require_parent_links(state, command, moved, target, exchange)
    return (
        rec.Renamed(command.parent, command.name, command.new_parent, command.new_name, exchange, now_ns),
    )


def _require_replaceable(moved: Inode, target: Inode) -> None:
    if target.directory is not None:
        if not moved.is_dir:
            raise err.IsDirectoryError()
        if len(target.directory):
            raise err.DirectoryNotEmptyError()
    elif moved.is_dir:
        raise err.NotDirectoryError()
    require_unpinned(target)


def _require_parent_links(
    state: State, command: cmd.Rename, moved: Inode, target: Inode | None, exchange: bool
) -> None:
    """A directory that changes its parent needs a link there, unless one leaves it at the same time."""
    if command.parent == command.new_parent:
        return
    target_is_dir = target is not None and target.is_dir
    gains = moved.is_dir and not target_is_dir
    if gains and state.inodes[command.new_parent].nlink >= LINK_MAX:
        raise err.TooManyLinksError()
    if exchange and target_is_dir and not moved.is_dir and state.inodes[command.parent].nlink >= LINK_MAX:
        raise err.TooManyLinksError()


def _require_no_loop(state: State, moved: Inode, new_parent: Ino) -> None:
    """A directory cannot move below itself."""
    if not moved.is_dir:
        return
    at = new_parent
    while True:
        if at == moved.ino:
            raise err.InvalidCallError("a directory cannot move into itself")
        above = directory_of(state, at).parent
        if above == at:
            return
        at = above
