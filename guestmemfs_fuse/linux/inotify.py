"""Being told that files were modified (inotify(7)), by whatever way in: calls, and madvise on a mapping.

The kernel tells of MADV_REMOVE too, because it is carried out by vfs_fallocate() on the mapping's file
(mm/madvise.c); plain stores through a mapping are not told. Owns one descriptor. Called by engine/punches.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import Final

from guestmemfs_fuse.linux import libc

IN_MODIFY: Final = 0x2
_IN_Q_OVERFLOW: Final = 0x4000
_EVENT: Final = struct.Struct("iIII")
_BUFFER_BYTES: Final = 65536


class ModifyWatch:
    """Watches files by descriptor. A watch belongs to the inode, so it survives the descriptor."""

    def __init__(self) -> None:
        """Raises OSError (EMFILE: the user's instances are used up)."""
        self.fd = libc.call("inotify_init1", os.O_NONBLOCK | os.O_CLOEXEC)

    def add(self, file_fd: int) -> int:
        """Watch an open file; returns the watch. Raises OSError (ENOSPC: the user's watches are used up)."""
        return libc.call("inotify_add_watch", self.fd, f"/proc/self/fd/{file_fd}", IN_MODIFY)

    def remove(self, watch: int) -> None:
        """Watch no longer; one that ended by itself with its file is fine."""
        try:
            libc.call("inotify_rm_watch", self.fd, watch)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise

    def read(self) -> tuple[set[int], bool]:
        """The watches with news, each once, and whether some were lost. Nothing when there is no news."""
        try:
            raw = os.read(self.fd, _BUFFER_BYTES)
        except BlockingIOError:
            return set(), False
        watches, lost, at = set(), False, 0
        while at < len(raw):
            watch, mask, _, length = _EVENT.unpack_from(raw, at)
            at += _EVENT.size + length
            if mask & _IN_Q_OVERFLOW:
                lost = True
            elif mask & IN_MODIFY:
                watches.add(watch)
        return watches, lost

    def close(self) -> None:
        """Let go of everything."""
        os.close(self.fd)
