"""Files on an fsdax filesystem: memory that survives a kexec (and, on persistent memory, a power cycle).

The region is a directory on an ext4 or xfs mounted with -o dax=always over a carve-out (memmap=nn!ss) or
pmem: loads and stores of a mapping go straight to it. State directory, data and metadata all live there,
so the instance is found again after a kexec by its directory and recognised by its UUID.

Huge mappings need extents that are 2M aligned on the device: ext4 with 2M clusters (mkfs.ext4 -O bigalloc
-C 2M) keeps every extent so. `huge_bytes` counts the blocks for which that holds.

Called by region/choose.py and the engine.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from guestmemfs_fuse.core.errors import OutOfMemoryError, UnsupportedError
from guestmemfs_fuse.core.state import Inode
from guestmemfs_fuse.core.types import round_down, round_up
from guestmemfs_fuse.linux import fiemap, memory, statx
from guestmemfs_fuse.region.base import BackingStat, RegionUse
from guestmemfs_fuse.region.named_files import NamedBackingFiles

ADVICE: Final = (
    "boot with memmap=SIZE!START, then: mkfs.ext4 -b 4096 -O bigalloc -C 2M /dev/pmem0; "
    "mount -o dax=always /dev/pmem0 DIR (guestmemfs doctor prints the lines for this host)"
)
_WHOLE_FILE: Final = 1 << 62
_PROBE_NAME: Final = ".guestmemfs-dax-probe"


class DaxRegion(NamedBackingFiles):
    """A region in a directory on an fsdax filesystem."""

    kind = "dax"

    def available_bytes(self) -> int:
        """What the filesystem has left, whoever uses the rest."""
        whole = os.statvfs(self._data_fd)
        return whole.f_bavail * whole.f_frsize

    def use(self) -> RegionUse:
        """See Region.use: the memory of our files, and no more free than the filesystem has."""
        used_bytes = 0
        for entry in os.scandir(self._data_fd):
            try:
                used_bytes += self._used_by(entry)
            except FileNotFoundError:
                continue  # reaped while we looked
        return RegionUse(self.size_bytes, max(used_bytes, self.size_bytes - self.available_bytes()))

    def _used_by(self, entry: os.DirEntry[str]) -> int:
        """Only where the cheap answer is not plausible the extents are counted."""
        status = entry.stat(follow_symlinks=False)
        allocated_bytes = status.st_blocks * 512
        if allocated_bytes <= round_up(status.st_size, self.block_bytes):
            return allocated_bytes
        fd = os.open(entry.name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._data_fd)
        try:
            return self._backed_bytes(fd, 0, _WHOLE_FILE)
        finally:
            os.close(fd)

    def stat(self, inode: Inode) -> BackingStat:
        """See Region.stat. By extents: st_blocks counts the filesystem's own tree of them too.

        That tree needs a block (with bigalloc: a cluster) as soon as a file has more than four extents, for
        instance while a guest touches its memory for the first time and 2M after 2M is converted to written.
        """
        with self._opened(inode.ino) as fd:
            return BackingStat(os.fstat(fd).st_size, self._backed_bytes(fd, 0, _WHOLE_FILE))

    def _backed_bytes(self, fd: int, start: int, end: int) -> int:
        return sum(extent.length_bytes for extent in fiemap.extents(fd, start, end))

    def huge_bytes(self, inode: Inode) -> int:
        """See Region.huge_bytes: whole blocks whose device address is aligned, so that a PMD can map them.

        The kernel offers no count of its own for DAX mappings (smaps leaves them out of FilePmdMapped).
        """
        found = 0
        with self._opened(inode.ino) as fd:
            for extent in fiemap.extents(fd, 0, round_up(inode.size_bytes, self.block_bytes)):
                if (extent.device_offset_bytes - extent.offset_bytes) % self.block_bytes:
                    continue
                end = extent.offset_bytes + extent.length_bytes
                start = round_up(extent.offset_bytes, self.block_bytes)
                found += max(0, round_down(end, self.block_bytes) - start)
        return min(found, self.stat(inode).allocated_bytes)

    def resize(self, size_bytes: int) -> None:
        """See Region.resize: only our own limit changes; the filesystem has the last word."""
        self.use().require_fits(size_bytes)
        _require_room(self.root_path, size_bytes)
        self.size_bytes = size_bytes


def create(root_path: str, size_bytes: int) -> None:
    """Make the directory of a new region.

    Raises UnsupportedError when it is not on an fsdax filesystem, OutOfMemoryError when that is too small.
    """
    os.makedirs(root_path, mode=0o700, exist_ok=True)
    require_dax(root_path)
    _require_room(root_path, size_bytes)


def require_dax(directory: str) -> None:
    """Raise UnsupportedError unless files made in `directory` are DAX (statx STATX_ATTR_DAX)."""
    path = os.path.join(directory, _PROBE_NAME)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.unlink(path)
        memory.fallocate(fd, 0, 0, 4096)
        is_dax = statx.is_dax(fd)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.ENOSPC):
            raise
        is_dax = False
    finally:
        os.close(fd)
    if not is_dax:
        raise UnsupportedError(f"{directory} is not on an fsdax filesystem", hint=ADVICE)


def _require_room(root_path: str, size_bytes: int) -> None:
    whole = os.statvfs(root_path)
    if size_bytes > whole.f_blocks * whole.f_frsize:
        raise OutOfMemoryError(
            f"the filesystem of {root_path} has {whole.f_blocks * whole.f_frsize >> 20} MiB",
            hint="choose a smaller --size, or a larger carve-out",
        )
