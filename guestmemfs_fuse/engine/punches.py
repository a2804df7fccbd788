"""Memory that goes away without anybody asking us: MADV_REMOVE through a passthrough mapping.

The kernel punches the backing file itself, and would go on showing the st_blocks it has cached (attributes
are cached for good, fuse/attributes). So backing files are watched, and when one that the kernel knows lost
memory, the kernel is told to ask again. Until it is (a fraction of a millisecond; a few where much goes on)
the old figure may be seen.

Where backing files have names there is one watch, on their directory, however many they are. Where they have
none (memfd) there is one for every inode with a backing id, as far as the user's watches go; without it
figures may be old until the next change.

Called by engine/backings; run() is a task of the daemon.
"""

from __future__ import annotations

import logging
import os
from typing import Final

import trio

from guestmemfs_fuse.core.errors import FsError
from guestmemfs_fuse.core.state import State
from guestmemfs_fuse.core.types import Ino
from guestmemfs_fuse.engine.kernel import Kernel
from guestmemfs_fuse.linux.inotify import ModifyWatch, News
from guestmemfs_fuse.region.base import Region

log = logging.getLogger(__name__)

_REST_S: Final = 0.005
"""Between two looks at the news: what we truncate ourselves is among it, and is nothing to hurry for."""


class Punches:
    """Notices punched backing files. Owns the watches; nothing is watched before run()."""

    def __init__(self, state: State, region: Region, kernel: Kernel) -> None:
        self._state = state
        self._region = region
        self._kernel = kernel
        self._news: ModifyWatch | None = None
        self._inos: dict[int, Ino] = {}
        self._watches: dict[Ino, int] = {}

    def watch(self, ino: Ino, backing_fd: int) -> None:
        """The kernel knows this backing file from now on."""
        if self._news is None or not self._one_by_one:
            return
        try:
            watch = self._news.add(backing_fd)
        except OSError as error:
            log.warning("inode %d is not watched, its st_blocks may be old: %s", ino, error)
            return
        self._inos[watch], self._watches[ino] = ino, watch

    @property
    def _one_by_one(self) -> bool:
        """Files that are extents of one file all have the same backing, without memory."""
        return self._region.region_file is None and self._region.backing_dir_fd is None

    def unwatch(self, ino: Ino) -> None:
        """The kernel does not know it any more."""
        watch = self._watches.pop(ino, None)
        if watch is not None and self._news is not None:
            del self._inos[watch]
            self._news.remove(watch)

    async def run(self) -> None:
        """Watch what the kernel knows, and tell it of what was punched; runs for ever."""
        self._news = ModifyWatch()
        try:
            if self._region.backing_dir_fd is not None:
                self._news.add(self._region.backing_dir_fd)
            for inode in self._known() if self._one_by_one else ():
                self._watch_again(inode)
                await trio.lowlevel.checkpoint()
            while True:
                await trio.lowlevel.wait_readable(self._news.fd)
                found, lost = self._news.read()
                for ino in self._known() if lost else map(self._ino_of, found):
                    self._look(ino)
                await trio.sleep(_REST_S)
        finally:
            self._news.close()
            self._news = None

    def _known(self) -> list[Ino]:
        """All inodes whose backing the kernel knows."""
        return [inode.ino for inode in self._state.inodes.values() if inode.backing_id is not None]

    def _ino_of(self, news: News) -> Ino:
        try:
            return Ino(int(news.name, 16)) if news.name else self._inos.get(news.watch, Ino(0))
        except ValueError:
            return Ino(0)

    def _watch_again(self, ino: Ino) -> None:
        if ino not in self._state.inodes or ino in self._watches:
            return
        try:
            fd = self._region.open_backing(ino)
        except FsError as error:
            if ino not in self._state.orphans:  # the last daemon had given its memory up, and no more
                log.error("inode %d: %s", ino, error)
            return
        try:
            self.watch(ino, fd)
        finally:
            os.close(fd)

    def _look(self, ino: Ino) -> None:
        """Our own changes come by here too: only a file with less memory than its size needs telling."""
        inode = self._state.inodes.get(ino)
        if inode is None or inode.backing_id is None:
            return
        try:
            if self._region.stat(inode).allocated_bytes < inode.size_bytes:
                self._kernel.invalidate_inode(inode.ino)
        except FsError as error:
            log.error("inode %d: %s", inode.ino, error)
