"""Being told that files were modified (inotify(7)), by whatever way in: calls, and madvise on a mapping.

The kernel tells of MADV_REMOVE too, because it is carried out by vfs_fallocate() on the mapping's file
(mm/madvise.c); plain stores through a mapping are not told. Owns one descriptor. Called by engine/punches.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import Final, NamedTuple

from guestmemfs_fuse.linux import libc

IN_MODIFY: Final = 0x2
_IN_Q_OVERFLOW: Final = 0x4000
_EVENT: Final = struct.Struct("iIII")
_BUFFER_BYTES: Final = 65536


class News(NamedTuple):
    """One file was modified: the watch that says so and, where it stands on a directory, the file's name."""

    watch: int
    name: bytes = b""


class ModifyWatch:
    """Watches files, or all files of a directory, by descriptor.

    A watch belongs to the inode, so it survives the descriptor. A directory's tells of its files whichever
    way they are reached, through a mapping too: by the dentry of the open file (fsnotify_parent).
    """

    def __init__(self) -> None:
        """Raises OSError (EMFILE: the user's instances are used up)."""
        self.fd = libc.call("inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC)

    def add(self, file_fd: int) -> int:
        """Watch an open file or directory; returns the watch.

        Raises OSError (ENOSPC: the user's watches are used up).
        """
        return libc.call("inotify_add_watch", self.fd, f"/proc/self/fd/{file_fd}", IN_MODIFY)

    def remove(self, watch: int) -> None:
        """Watch no longer; one that ended by itself with its file is fine."""
        try:
            libc.call("inotify_rm_watch", self.fd, watch)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise

    def read(self) -> tuple[set[News], bool]:
        """What was modified, each once, and whether some was lost. Nothing when there is no news."""
        try:
            raw = os.read(self.fd, _BUFFER_BYTES)
        except BlockingIOError:
            return set(), False
        found, lost, at = set[News](), False, 0
        while at < len(raw):
            watch, mask, _, length = _EVENT.unpack_from(raw, at)
            name_at = at + _EVENT.size
            at = name_at + length
            if mask & _IN_Q_OVERFLOW:
                lost = True
            elif mask & IN_MODIFY:
                found.add(News(watch, raw[name_at:at].rstrip(b"\0")))
        return found, lost

    def close(self) -> None:
        """Let go of everything."""
        os.close(self.fd)
