"""The default kind: a tmpfs mount of our own in the state directory, one backing file per inode.

The mount stands in the host's mount table, so nobody has to hold it: it outlives every process of ours.
Huge pages come from the mount's own `huge=always`, whatever the host's sysfs setting says; `noswap`
keeps guest memory in memory. The tmpfs is larger than the region by room for the metadata; what files
may take is enforced here.

Called by region/choose.py and the engine.
"""

from __future__ import annotations

import os
from typing import Final

from guestmemfs_fuse.core.errors import InstanceBusyError, OutOfMemoryError
from guestmemfs_fuse.linux import mount, mountinfo
from guestmemfs_fuse.region import host_memory, private_tmpfs
from guestmemfs_fuse.region.named_files import NamedBackingFiles

_METADATA_ROOM_BYTES: Final = 256 << 20
"""Room behind the region's size for journal and snapshot; a tmpfs's size costs nothing until it is used."""


class TmpfsRegion(NamedBackingFiles):
    """A region on a private tmpfs at `root_path`."""

    kind = "tmpfs"

    def resize(self, size_bytes: int) -> None:
        """See Region.resize."""
        used_bytes = self.use().used_bytes
        if size_bytes < used_bytes:
            raise InstanceBusyError(f"{used_bytes} bytes are in use", hint="remove files first")
        if size_bytes > host_memory.total_bytes():
            raise OutOfMemoryError(f"the host has {host_memory.total_bytes()} bytes of memory")
        mount.reconfigure(self.root_path, {"size": str(_mount_size(size_bytes))})
        self.size_bytes = size_bytes


def is_there(root_path: str) -> bool:
    """Whether a tmpfs stands at root_path."""
    entry = mountinfo.find_mountpoint(root_path)
    return entry is not None and entry.fstype == "tmpfs"


def create(root_path: str, size_bytes: int, numa_node: int | None = None) -> None:
    """Mount a new tmpfs at root_path.

    Raises OutOfMemoryError when the host (or the NUMA node) cannot hold size_bytes, UnsupportedError when
    the kernel refuses an option; then nothing is mounted.
    """
    mount_fd = private_tmpfs.new(size_bytes, _mount_size(size_bytes), numa_node)
    try:
        os.makedirs(root_path, mode=0o700, exist_ok=True)
        mount.attach(mount_fd, root_path)
    finally:
        os.close(mount_fd)


def destroy(root_path: str) -> None:
    """Give the memory back: take the tmpfs away. Mappings that exist keep their pages."""
    if is_there(root_path):
        mount.umount(root_path, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)


def _mount_size(size_bytes: int) -> int:
    return size_bytes + size_bytes // 64 + _METADATA_ROOM_BYTES
