"""Refuse a command, or say what would change. Pure: reads a State, changes nothing.

`decide(command, state, now_ns)` returns the records that carry the command out, or raises an `FsError`.
No records means: granted, and nothing changes. Permission bits and sticky directories are enforced by
the kernel before a request reaches us (default_permissions); what is decided here is existence, type,
limits, pins, marks and the serialised state.

Called by the engine under its mutation lock, by fsck and by the model tests.
"""

from __future__ import annotations

import stat
from functools import singledispatch

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core import errors as err
from guestmemfs_fuse.core import records as rec
from guestmemfs_fuse.core.directory import Directory
from guestmemfs_fuse.core.state import Inode, State
from guestmemfs_fuse.core.types import (
    FILE_MAX_BYTES,
    LINK_MAX,
    NAME_MAX_BYTES,
    RENAME_EXCHANGE,
    RENAME_NOREPLACE,
    SYMLINK_MAX_BYTES,
    XATTR_CREATE,
    XATTR_INODE_MAX_BYTES,
    XATTR_NAME_MAX_BYTES,
    XATTR_REPLACE,
    XATTR_VALUE_MAX_BYTES,
    Ino,
    blocks_of,
)

Records = tuple[rec.Record, ...]

_EVEN_WHEN_FROZEN = (
    cmd.Freeze,
    cmd.StartDaemon,
    cmd.StartSession,
    cmd.OpenBacking,
    cmd.CloseBacking,
    cmd.Quarantine,
)
_FILE_TYPES = (
    stat.S_IFREG,
    stat.S_IFDIR,
    stat.S_IFLNK,
    stat.S_IFIFO,
    stat.S_IFSOCK,
    stat.S_IFCHR,
    stat.S_IFBLK,
)


def decide(command: cmd.Command, state: State, now_ns: int) -> Records:
    """What `command` would change, or a refusal.

    now_ns: the time stamp to give, nanoseconds since the epoch.
    Raises an FsError (BusyFsError for every modification of a frozen instance).
    """
    if state.frozen and not isinstance(command, _EVEN_WHEN_FROZEN):
        raise err.BusyFsError("the instance is frozen", hint="guestmemfs thaw gives it back")
    return _decide(command, state, now_ns)


@singledispatch
def _decide(command: object, state: State, now_ns: int) -> Records:
    raise AssertionError(f"no rule for command {type(command).__name__}")


# -- looking things up --------------------------------------------------------------------------------


def inode_of(state: State, ino: Ino) -> Inode:
    """The inode, or StaleInodeError."""
    inode = state.inodes.get(ino)
    if inode is None:
        raise err.StaleInodeError(f"no inode {ino}")
    return inode


def directory_of(state: State, ino: Ino) -> Directory:
    """The directory of that inode number, or NotDirectoryError."""
    directory = inode_of(state, ino).directory
    if directory is None:
        raise err.NotDirectoryError()
    return directory


def lookup(state: State, parent: Ino, name: bytes) -> Inode | None:
    """The inode an entry leads to, or None. Raises for a name that is too long."""
    if len(name) > NAME_MAX_BYTES:
        raise err.NameTooLongFsError()
    ino = directory_of(state, parent).get(name)
    return None if ino is None else state.inodes[ino]


def _existing(state: State, parent: Ino, name: bytes) -> Inode:
    inode = lookup(state, parent, name)
    if inode is None:
        raise err.NoEntryError()
    return inode


def _require_room_for(state: State, parent: Ino, name: bytes) -> None:
    """A new entry may be made here."""
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise err.InvalidCallError("not a file name")
    if lookup(state, parent, name) is not None:
        raise err.EntryExistsError()
    if state.inodes[parent].nlink == 0:
        raise err.NoEntryError("the directory was removed")


def _file_of(state: State, ino: Ino) -> Inode:
    """A regular file, or the refusal its type asks for."""
    inode = inode_of(state, ino)
    if inode.is_dir:
        raise err.IsDirectoryError()
    if not inode.is_file:
        raise err.InvalidCallError("only regular files have a size")
    return inode


def _require_unpinned(inode: Inode) -> None:
    if inode.pinned:
        raise err.BusyFsError("the file is pinned", hint="guestmemfs unpin gives it back")
    if inode.mark:
        raise err.BusyFsError("the file holds a saved guest", hint="guestmemfs vm restore, or vm discard")


def _require_user_room(state: State, uid: int, files: int, xattr_bytes: int) -> None:
    """Root is not limited."""
    owned = state.usage.get(uid)
    if uid == 0:
        return
    if files + (owned.files if owned else 0) > state.limits.max_files and files > 0:
        raise err.UserLimitError(f"user {uid} may own {state.limits.max_files} files here")
    if xattr_bytes + (owned.xattr_bytes if owned else 0) > state.limits.max_xattr_bytes and xattr_bytes > 0:
        raise err.UserLimitError(f"user {uid} may keep {state.limits.max_xattr_bytes} attribute bytes here")


# -- names --------------------------------------------------------------------------------------------


@_decide.register
def _make(command: cmd.Make, state: State, now_ns: int) -> Records:
    parent = inode_of(state, command.parent)
    directory_of(state, command.parent)
    kind = stat.S_IFMT(command.mode)
    if kind not in _FILE_TYPES:
        raise err.InvalidCallError("not a file type")
    if command.name:
        _require_room_for(state, command.parent, command.name)
    elif kind != stat.S_IFREG:
        raise err.InvalidCallError("only regular files can be made without a name")
    if len(command.target) > SYMLINK_MAX_BYTES:
        raise err.NameTooLongFsError()
    if kind == stat.S_IFLNK and not command.target:
        raise err.NoEntryError("an empty symbolic link")
    if kind == stat.S_IFDIR and parent.nlink >= LINK_MAX:
        raise err.TooManyLinksError()
    _require_user_room(state, command.uid, files=1, xattr_bytes=0)
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
    return (made,)


@_decide.register
def _link(command: cmd.Link, state: State, now_ns: int) -> Records:
    inode = inode_of(state, command.ino)
    if inode.is_dir:
        raise err.NotPermittedError("directories have one name")
    _require_room_for(state, command.new_parent, command.new_name)
    if inode.nlink == 0 and command.ino not in state.orphans:
        raise err.NoEntryError()
    if inode.nlink >= LINK_MAX:
        raise err.TooManyLinksError()
    return (rec.Linked(command.new_parent, command.new_name, command.ino, now_ns),)


@_decide.register
def _unlink(command: cmd.Unlink, state: State, now_ns: int) -> Records:
    inode = _existing(state, command.parent, command.name)
    if inode.is_dir:
        raise err.IsDirectoryError()
    _require_unpinned(inode)
    return (rec.Unlinked(command.parent, command.name, now_ns),)


@_decide.register
def _rmdir(command: cmd.Rmdir, state: State, now_ns: int) -> Records:
    if command.name == b".":
        raise err.InvalidCallError()
    inode = _existing(state, command.parent, command.name)
    if inode.directory is None:
        raise err.NotDirectoryError()
    if len(inode.directory):
        raise err.DirectoryNotEmptyError()
    return (rec.Unlinked(command.parent, command.name, now_ns),)


@_decide.register
def _rename(command: cmd.Rename, state: State, now_ns: int) -> Records:
    exchange = bool(command.flags & RENAME_EXCHANGE)
    if command.flags & ~(RENAME_EXCHANGE | RENAME_NOREPLACE) or (
        exchange and command.flags & RENAME_NOREPLACE
    ):
        raise err.InvalidCallError("unknown rename flags")
    moved = _existing(state, command.parent, command.name)
    target = lookup(state, command.new_parent, command.new_name)
    _require_no_loop(state, moved, command.new_parent)
    if exchange:
        if target is None:
            raise err.NoEntryError()
        _require_no_loop(state, target, command.parent)
    elif target is None:
        _require_room_for(state, command.new_parent, command.new_name)
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
    _require_unpinned(target)


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


# -- attributes ---------------------------------------------------------------------------------------


@_decide.register
def _set_attrs(command: cmd.SetAttrs, state: State, now_ns: int) -> Records:
    inode = inode_of(state, command.ino)
    if command.uid is not None and command.uid != inode.uid:
        _require_user_room(state, command.uid, files=1, xattr_bytes=inode.xattr_bytes)
    mode = None
    if command.mode is not None:
        mode = stat.S_IFMT(inode.mode) | stat.S_IMODE(command.mode)
    return (
        rec.AttrsSet(command.ino, mode, command.uid, command.gid, command.atime_ns, command.mtime_ns, now_ns),
    )


@_decide.register
def _set_xattr(command: cmd.SetXattr, state: State, now_ns: int) -> Records:
    inode = _xattr_inode(state, command.ino, command.name)
    existing = (inode.xattrs or {}).get(command.name)
    if command.flags & XATTR_CREATE and existing is not None:
        raise err.EntryExistsError()
    if command.flags & XATTR_REPLACE and existing is None:
        raise err.NoAttributeError()
    if len(command.name) > XATTR_NAME_MAX_BYTES:
        raise err.AttributeTooBigError()
    if len(command.value) > XATTR_VALUE_MAX_BYTES:
        raise err.AttributeTooBigError()
    grows = (
        len(command.value) - len(existing)
        if existing is not None
        else (len(command.name) + len(command.value))
    )
    if grows > 0 and inode.xattr_bytes + grows > XATTR_INODE_MAX_BYTES:
        raise err.RegionFullError("the inode's extended attributes are full")
    _require_user_room(state, inode.uid, files=0, xattr_bytes=grows)
    return (rec.XattrSet(command.ino, command.name, command.value, now_ns),)


@_decide.register
def _remove_xattr(command: cmd.RemoveXattr, state: State, now_ns: int) -> Records:
    inode = _xattr_inode(state, command.ino, command.name)
    if command.name not in (inode.xattrs or {}):
        raise err.NoAttributeError()
    return (rec.XattrRemoved(command.ino, command.name, now_ns),)


def _xattr_inode(state: State, ino: Ino, name: bytes) -> Inode:
    inode = inode_of(state, ino)
    if not name.startswith(b"user."):
        raise err.AttributeUnsupportedError("only user.* attributes exist here")
    if name == b"user.":
        raise err.InvalidCallError("an attribute without a name")
    return inode


# -- memory -------------------------------------------------------------------------------------------


@_decide.register
def _resize(command: cmd.Resize, state: State, now_ns: int) -> Records:
    inode = _file_of(state, command.ino)
    if command.size_bytes < 0:
        raise err.InvalidCallError("a negative size")
    if command.size_bytes > FILE_MAX_BYTES:
        raise err.FileTooBigError()
    if command.size_bytes < inode.size_bytes and not command.force:
        _require_unpinned(inode)
    prealloc_bytes = inode.prealloc_bytes if command.size_bytes > inode.size_bytes else 0
    resized = rec.Resized(command.ino, command.size_bytes, prealloc_bytes, now_ns)
    return (*_fit_blocks(state, inode, max(command.size_bytes, prealloc_bytes), cut=True), resized)


@_decide.register
def _allocate(command: cmd.Allocate, state: State, now_ns: int) -> Records:
    inode = _file_of(state, command.ino)
    if command.offset_bytes < 0 or command.length_bytes <= 0:
        raise err.InvalidCallError("an empty or negative range")
    end_bytes = command.offset_bytes + command.length_bytes
    if end_bytes > FILE_MAX_BYTES:
        raise err.FileTooBigError()
    size_bytes = inode.size_bytes if command.keep_size else max(inode.size_bytes, end_bytes)
    prealloc_bytes = max(inode.prealloc_bytes, end_bytes) if command.keep_size else inode.prealloc_bytes
    resized = rec.Resized(command.ino, size_bytes, prealloc_bytes, now_ns)
    return (*_fit_blocks(state, inode, max(size_bytes, prealloc_bytes), cut=False), resized)


@_decide.register
def _punch(command: cmd.Punch, state: State, now_ns: int) -> Records:
    inode = _file_of(state, command.ino)
    if command.offset_bytes < 0 or command.length_bytes <= 0:
        raise err.InvalidCallError("an empty or negative range")
    _require_unpinned(inode)
    return (rec.Punched(command.ino, command.offset_bytes, command.length_bytes, now_ns),)


def _fit_blocks(state: State, inode: Inode, reach_bytes: int, *, cut: bool) -> Records:
    """Extent changes so that the file's blocks reach `reach_bytes`; nothing where files are no extents."""
    if state.free is None:
        return ()
    needed = blocks_of(reach_bytes, state.block_bytes)
    held = inode.block_count
    if needed > held:
        last = inode.extents[-1].end if inode.extents else None
        return (rec.ExtentsAdded(inode.ino, state.free.find(needed - held, after=last)),)
    if needed < held and cut:
        return (rec.ExtentsCut(inode.ino, needed),)
    return ()


@_decide.register
def _reap(command: cmd.Reap, state: State, now_ns: int) -> Records:
    inode_of(state, command.ino)
    if command.ino not in state.orphans:
        raise err.BusyFsError("the inode still has a name")
    return (rec.Reaped(command.ino),)


# -- what the command line and the daemon itself ask --------------------------------------------------


@_decide.register
def _pin(command: cmd.Pin, state: State, now_ns: int) -> Records:
    inode = _file_of(state, command.ino)
    return () if inode.pinned == command.pinned else (rec.PinSet(command.ino, command.pinned),)


@_decide.register
def _mark(command: cmd.Mark, state: State, now_ns: int) -> Records:
    inode = _file_of(state, command.ino)
    return () if inode.mark == command.mark else (rec.MarkSet(command.ino, command.mark),)


@_decide.register
def _freeze(command: cmd.Freeze, state: State, now_ns: int) -> Records:
    return () if state.frozen == command.frozen else (rec.FrozenState(command.frozen),)


@_decide.register
def _start_daemon(command: cmd.StartDaemon, state: State, now_ns: int) -> Records:
    return (rec.DaemonStarted(state.generation + 1),)


@_decide.register
def _start_session(command: cmd.StartSession, state: State, now_ns: int) -> Records:
    return (rec.SessionStarted(command.init_request, command.device),)


@_decide.register
def _open_backing(command: cmd.OpenBacking, state: State, now_ns: int) -> Records:
    inode_of(state, command.ino)
    return (rec.BackingOpened(command.ino, command.backing_id),)


@_decide.register
def _close_backing(command: cmd.CloseBacking, state: State, now_ns: int) -> Records:
    return (rec.BackingClosed(command.ino),) if inode_of(state, command.ino).backing_id is not None else ()


@_decide.register
def _quarantine(command: cmd.Quarantine, state: State, now_ns: int) -> Records:
    known = {block for extent in state.quarantined for block in range(extent.start, extent.end)}
    fresh = tuple(
        extent for extent in command.extents if not known.issuperset(range(extent.start, extent.end))
    )
    return (rec.Quarantined(fresh),) if fresh else ()


@_decide.register
def _resize_region(command: cmd.ResizeRegion, state: State, now_ns: int) -> Records:
    if command.size_bytes <= 0 or command.size_bytes % state.block_bytes:
        raise err.InvalidCallError("a region is whole blocks")
    if command.size_bytes == state.region_bytes:
        return ()
    if state.free is not None:
        _require_free_from(state, command.size_bytes // state.block_bytes)
    return (rec.RegionResized(command.size_bytes),)


def _require_free_from(state: State, block: int) -> None:
    """No file's block, and no withheld one, stands at or behind `block`."""
    assert state.free is not None
    tail = state.free.free_extents()[-1:]
    total = state.free.total_blocks
    if block < total and not (tail and tail[0].end == total and tail[0].start <= block):
        raise err.BusyFsError("blocks beyond the new end are in use")
