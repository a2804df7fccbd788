"""Backing files that have names in a directory: what the tmpfs and dax kinds share.

A region directory holds `data/`, one file per inode named by its number in hexadecimal, and `metadata/`,
the instance's journal and snapshot: data and metadata live and die together.

Called by region/tmpfs.py and region/dax.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from guestmemfs_fuse.core.errors import RegionFullError, StaleInodeError
from guestmemfs_fuse.core.state import Inode
from guestmemfs_fuse.core.types import Ino
from guestmemfs_fuse.region.backing_files import NO_ROOM, BackingFiles
from guestmemfs_fuse.region.base import BackingStat, RegionUse


class NamedBackingFiles(BackingFiles):
    """Base of the kinds whose backing files stand in `ROOT/data`. Owns directory descriptors only."""

    def __init__(
        self, root_path: str, size_bytes: int, block_bytes: int, numa_node: int | None = None
    ) -> None:
        super().__init__(block_bytes, numa_node)
        self.root_path = root_path
        self.size_bytes = size_bytes
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        for name in ("data", "metadata"):
            os.makedirs(os.path.join(root_path, name), mode=0o700, exist_ok=True)
        self._root_fd = os.open(root_path, flags)
        self._data_fd = self.backing_dir_fd = os.open("data", flags, dir_fd=self._root_fd)
        self._metadata_fd = os.open("metadata", flags, dir_fd=self._root_fd)

    @property
    def metadata_path(self) -> str:
        """Where journal and snapshot live: in the region itself."""
        return os.path.join(self.root_path, "metadata")

    def handover_fds(self) -> dict[str, list[int]]:
        """See OpenRegion: names are enough, nobody has to hold anything."""
        return {}

    def close(self) -> None:
        """Let go of the directories; the memory stays."""
        for fd in (self._data_fd, self._metadata_fd, self._root_fd):
            os.close(fd)

    def create(self, ino: Ino) -> None:
        """See Region.create. Raises RegionFullError: the filesystem has no room for an inode or a name."""
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        try:
            os.close(os.open(f"{ino:x}", flags, 0o600, dir_fd=self._data_fd))
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise RegionFullError(f"no room for another file ({error.strerror})") from error

    def open_backing(self, ino: Ino) -> int:
        """See Region.open_backing."""
        try:
            return os.open(f"{ino:x}", os.O_RDWR | os.O_CLOEXEC, dir_fd=self._data_fd)
        except FileNotFoundError as error:
            raise StaleInodeError(f"inode {ino} has no backing file", hint="run guestmemfs fsck") from error

    def discard(self, inode: Inode) -> None:
        """See Region.discard."""
        try:
            os.unlink(f"{inode.ino:x}", dir_fd=self._data_fd)
        except FileNotFoundError:
            pass  # done before the crash that makes us do it again

    def stat(self, inode: Inode) -> BackingStat:
        """See Region.stat: one call instead of open, fstat, close."""
        try:
            status = os.stat(f"{inode.ino:x}", dir_fd=self._data_fd)
        except FileNotFoundError as error:
            raise StaleInodeError(f"inode {inode.ino} has no backing file") from error
        return BackingStat(status.st_size, status.st_blocks * 512)

    def backing_path(self, ino: Ino) -> str:
        """See BackingFiles.backing_path: by its name."""
        return os.path.join(self.root_path, "data", f"{ino:x}")

    def inventory(self) -> Iterator[Ino]:
        """See Region.inventory. Names that are no numbers are not ours and are passed over."""
        for name in os.listdir(self._data_fd):
            try:
                yield Ino(int(name, 16))
            except ValueError:
                continue

    def use(self) -> RegionUse:
        """See Region.use: what the filesystem counts, less our metadata."""
        whole = os.fstatvfs(self._data_fd)
        used_bytes = (whole.f_blocks - whole.f_bfree) * whole.f_frsize - self._metadata_bytes()
        return RegionUse(self.size_bytes, max(0, used_bytes))

    def _metadata_bytes(self) -> int:
        total = 0
        for entry in os.scandir(self._metadata_fd):
            try:
                total += entry.stat(follow_symlinks=False).st_blocks * 512
            except FileNotFoundError:
                continue  # replaced by a compaction while we looked
        return total
