"""Find what a command is about, or refuse: existence, types, pins, per-user limits.

Pure. Called by the rules (core/rules_*), and by rooms above for reading.
"""

from __future__ import annotations

from guestmemfs_fuse.core import errors as err
from guestmemfs_fuse.core.directory import Directory
from guestmemfs_fuse.core.state import Inode, State
from guestmemfs_fuse.core.types import NAME_MAX_BYTES, Ino


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
    """The inode an entry leads to, or None. Raises for what is no directory, then for a name too long."""
    directory = directory_of(state, parent)
    if len(name) > NAME_MAX_BYTES:
        raise err.NameTooLongFsError()
    ino = directory.get(name)
    return None if ino is None else state.inodes[ino]


def existing(state: State, parent: Ino, name: bytes) -> Inode:
    inode = lookup(state, parent, name)
    if inode is None:
        raise err.NoEntryError()
    return inode


def require_room_for(state: State, parent: Ino, name: bytes) -> None:
    """A new entry may be made here."""
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise err.InvalidCallError("not a file name")
    if lookup(state, parent, name) is not None:
        raise err.EntryExistsError()
    if state.inodes[parent].nlink == 0:
        raise err.NoEntryError("the directory was removed")


def file_of(state: State, ino: Ino) -> Inode:
    """A regular file, or the refusal its type asks for."""
    inode = inode_of(state, ino)
    if inode.is_dir:
        raise err.IsDirectoryError()
    if not inode.is_file:
        raise err.InvalidCallError("only regular files have a size")
    return inode


def require_unpinned(inode: Inode) -> None:
    if inode.pinned:
        raise err.BusyFsError("the file is pinned", hint="`guestmemfs unpin` allows that")
    if inode.mark:
        raise err.BusyFsError("the file holds a saved guest", hint="guestmemfs vm restore, or vm discard")


def require_user_room(state: State, uid: int, files: int, xattr_bytes: int) -> None:
    """Root is not limited."""
    owned = state.usage.get(uid)
    if uid == 0:
        return
    if files + (owned.files if owned else 0) > state.limits.max_files and files > 0:
        raise err.UserLimitError(f"user {uid} may own {state.limits.max_files} files here")
    if xattr_bytes + (owned.xattr_bytes if owned else 0) > state.limits.max_xattr_bytes and xattr_bytes > 0:
        raise err.UserLimitError(f"user {uid} may keep {state.limits.max_xattr_bytes} attribute bytes here")
