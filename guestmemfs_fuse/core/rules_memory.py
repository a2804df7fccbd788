"""Rules for memory: resize, allocate, punch, and the end of an orphan.

Each rule reads a State and returns the records that carry its command out, or raises an FsError.
Called by core/decide.
"""

from __future__ import annotations

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core import errors as err
from guestmemfs_fuse.core import records as rec
from guestmemfs_fuse.core.lookup import file_of, inode_of, require_unpinned
from guestmemfs_fuse.core.state import Inode, State
from guestmemfs_fuse.core.types import FILE_MAX_BYTES, blocks_of

Records = tuple[rec.Record, ...]


def resize(command: cmd.Resize, state: State, now_ns: int) -> Records:
    inode = file_of(state, command.ino)
    if command.size_bytes < 0:
        raise err.InvalidCallError("a negative size")
    if command.size_bytes > FILE_MAX_BYTES:
        raise err.FileTooBigError()
    if command.size_bytes < inode.size_bytes and not command.force:
        require_unpinned(inode)
    prealloc_bytes = inode.prealloc_bytes if command.size_bytes > inode.size_bytes else 0
    resized = rec.Resized(command.ino, command.size_bytes, prealloc_bytes, now_ns)
    return (*_fit_blocks(state, inode, max(command.size_bytes, prealloc_bytes), cut=True), resized)


def allocate(command: cmd.Allocate, state: State, now_ns: int) -> Records:
    inode = file_of(state, command.ino)
    if command.offset_bytes < 0 or command.length_bytes <= 0:
        raise err.InvalidCallError("an empty or negative range")
    end_bytes = command.offset_bytes + command.length_bytes
    if end_bytes > FILE_MAX_BYTES:
        raise err.FileTooBigError()
    size_bytes = inode.size_bytes if command.keep_size else max(inode.size_bytes, end_bytes)
    prealloc_bytes = max(inode.prealloc_bytes, end_bytes) if command.keep_size else inode.prealloc_bytes
    resized = rec.Resized(command.ino, size_bytes, prealloc_bytes, now_ns)
    return (*_fit_blocks(state, inode, max(size_bytes, prealloc_bytes), cut=False), resized)


def punch(command: cmd.Punch, state: State, now_ns: int) -> Records:
    inode = file_of(state, command.ino)
    if command.offset_bytes < 0 or command.length_bytes <= 0:
        raise err.InvalidCallError("an empty or negative range")
    require_unpinned(inode)
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


def reap(command: cmd.Reap, state: State, now_ns: int) -> Records:
    inode_of(state, command.ino)
    if command.ino not in state.orphans:
        raise err.BusyFsError("the inode still has a name")
    return (rec.Reaped(command.ino),)
