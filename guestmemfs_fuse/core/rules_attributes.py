"""Rules for attributes: mode, owner, times, extended attributes.

Each rule reads a State and returns the records that carry its command out, or raises an FsError.
Called by core/decide.
"""

from __future__ import annotations

import stat

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core import errors as err
from guestmemfs_fuse.core import records as rec
from guestmemfs_fuse.core.lookup import inode_of, require_user_room
from guestmemfs_fuse.core.state import Inode, State
from guestmemfs_fuse.core.types import (
    TIME_MAX_NS,
    TIME_MIN_NS,
    XATTR_CREATE,
    XATTR_INODE_MAX_BYTES,
    XATTR_NAME_MAX_BYTES,
    XATTR_REPLACE,
    XATTR_VALUE_MAX_BYTES,
    Ino,
)

Records = tuple[rec.Record, ...]


def set_attrs(command: cmd.SetAttrs, state: State, now_ns: int) -> Records:
    inode = inode_of(state, command.ino)
    if command.uid is not None and command.uid != inode.uid:
        require_user_room(state, command.uid, files=1, xattr_bytes=inode.xattr_bytes)
    mode = None
    if command.mode is not None:
        mode = stat.S_IFMT(inode.mode) | stat.S_IMODE(command.mode)
    atime_ns, mtime_ns = _storable(command.atime_ns), _storable(command.mtime_ns)
    return (rec.AttrsSet(command.ino, mode, command.uid, command.gid, atime_ns, mtime_ns, now_ns),)


def _storable(time_ns: int | None) -> int | None:
    """The nearest time that 64 bits of nanoseconds can say (1677 to 2262).

    FUSE passes 64 bits of seconds; a filesystem clamps what it cannot store (utimensat(2), NOTES).
    """
    return None if time_ns is None else max(TIME_MIN_NS, min(TIME_MAX_NS, time_ns))


def set_xattr(command: cmd.SetXattr, state: State, now_ns: int) -> Records:
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
    require_user_room(state, inode.uid, files=0, xattr_bytes=grows)
    return (rec.XattrSet(command.ino, command.name, command.value, now_ns),)


def remove_xattr(command: cmd.RemoveXattr, state: State, now_ns: int) -> Records:
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
