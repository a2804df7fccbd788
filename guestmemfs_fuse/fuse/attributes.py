"""Inodes as pyfuse3 wants them answered.

Every change of an inode goes through the kernel that caches it, so attributes and names may be cached for
good (a year); where we change something ourselves we tell the kernel (Kernel.invalidate_*). Only a file
with holes is asked for each time, because holes fill without a call.

Called by fuse/operations and fuse/direct.
"""

from __future__ import annotations

from typing import Final

import pyfuse3

from guestmemfs_fuse.core.errors import FsError, NoEntryError
from guestmemfs_fuse.core.lookup import directory_of, inode_of, lookup
from guestmemfs_fuse.core.state import Inode, State
from guestmemfs_fuse.core.types import NAME_MAX_BYTES, Ino
from guestmemfs_fuse.region.base import Region

CACHE_S: Final = 365 * 86_400
MAX_INODES: Final = 1 << 24
"""What statfs says an instance may hold; the real limits are memory and the per-user ones."""

_ENTRY_BYTES: Final = 32


def attributes_of(inode: Inode, region: Region) -> pyfuse3.EntryAttributes:
    """All attributes of an inode; memory figures come from the kernel, not from what we remember."""
    entry = _remembered(inode, region)
    if inode.is_file:
        allocated_bytes = region.stat(inode).allocated_bytes
        entry.st_blocks = allocated_bytes // 512
        if allocated_bytes < inode.size_bytes:
            # A guest that touches a hole fills it without anybody asking us: only st_blocks changes.
            entry.attr_timeout = 0
    return entry


def listed_attributes_of(inode: Inode, region: Region) -> pyfuse3.EntryAttributes:
    """As attributes_of, for a listing: a file whose memory is gone is fsck's business, and hides no other.

    Whoever asks for that file itself gets the error.
    """
    try:
        return attributes_of(inode, region)
    except FsError:
        entry = _remembered(inode, region)
        entry.entry_timeout = entry.attr_timeout = 0
        return entry


def _remembered(inode: Inode, region: Region) -> pyfuse3.EntryAttributes:
    """What does not depend on memory."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(inode.ino)
    entry.generation = 0
    entry.entry_timeout = CACHE_S
    entry.attr_timeout = CACHE_S
    entry.st_mode = pyfuse3.ModeT(inode.mode)
    entry.st_nlink = inode.nlink
    entry.st_uid = inode.uid
    entry.st_gid = inode.gid
    entry.st_rdev = inode.rdev
    entry.st_size = inode.size_bytes
    entry.st_blksize = region.block_bytes
    entry.st_blocks = 0
    if inode.directory is not None:
        entry.st_size = _ENTRY_BYTES * (2 + len(inode.directory))
    entry.st_atime_ns = inode.atime_ns
    entry.st_mtime_ns = inode.mtime_ns
    entry.st_ctime_ns = inode.ctime_ns
    return entry


def looked_up(state: State, region: Region, parent: Ino, name: bytes) -> pyfuse3.EntryAttributes:
    """What LOOKUP answers. Raises FsError."""
    if name in (b".", b".."):
        # of a file handle, when the kernel has forgotten the inode (fuse_get_dentry, fuse_get_parent)
        asked = inode_of(state, parent)
        if asked.nlink == 0:
            raise NoEntryError("removed, and not in use: the kernel would know it")
        found: Inode | None = asked
        if name == b"..":
            found = inode_of(state, directory_of(state, parent).parent)
    else:
        found = lookup(state, parent, name)
    return absent() if found is None else attributes_of(found, region)


def absent() -> pyfuse3.EntryAttributes:
    """A name that does not exist, cacheable: only calls through this mount can make it."""
    entry = pyfuse3.EntryAttributes()
    entry.st_ino = pyfuse3.InodeT(0)
    entry.entry_timeout = CACHE_S
    return entry


def statfs_of(state: State, region: Region) -> pyfuse3.StatvfsData:
    """True figures, in blocks of the region."""
    use = region.use()
    answer = pyfuse3.StatvfsData()
    answer.f_bsize = answer.f_frsize = region.block_bytes
    answer.f_blocks = use.size_bytes // region.block_bytes
    answer.f_bfree = answer.f_bavail = use.free_bytes // region.block_bytes
    answer.f_files = MAX_INODES
    answer.f_ffree = answer.f_favail = max(0, MAX_INODES - len(state.inodes))
    answer.f_namemax = NAME_MAX_BYTES
    return answer
