"""The mount under a region of the default kind: made, found and given back, without opening the region.

It stands in the host's mount table, so nobody has to hold it: it outlives every process of ours. Huge
pages come from the mount's own `huge=always`, whatever the host's sysfs setting says; `noswap` keeps guest
memory in memory.

Apart from the region itself because every command asks whether it is there. Called by region/choose.py.
"""

from __future__ import annotations

import os
from typing import Final

from guestmemfs_fuse.linux import mount, mountinfo
from guestmemfs_fuse.region import private_tmpfs

_METADATA_ROOM_BYTES: Final = 256 << 20
"""Room behind the region's size for journal and snapshot; a tmpfs's size costs nothing until it is used."""


def is_there(root_path: str) -> bool:
    """Whether a tmpfs stands at root_path."""
    return mountinfo.find_mountpoint(root_path, "tmpfs") is not None


def create(root_path: str, size_bytes: int, numa_node: int | None = None) -> None:
    """Mount a new tmpfs at root_path.

    Raises OutOfMemoryError when the host (or the NUMA node) cannot hold size_bytes, UnsupportedError when
    the kernel refuses an option; then nothing is mounted.
    """
    mount_fd = private_tmpfs.new(size_bytes, mount_bytes(size_bytes), numa_node)
    try:
        os.makedirs(root_path, mode=0o700, exist_ok=True)
        mount.attach(mount_fd, root_path)
    finally:
        os.close(mount_fd)


def destroy(root_path: str) -> None:
    """Give the memory back: take the tmpfs away. Mappings that exist keep their pages."""
    if is_there(root_path):
        mount.umount(root_path, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)


def mount_bytes(size_bytes: int) -> int:
    """The size of the tmpfs for a region of size_bytes."""
    return size_bytes + size_bytes // 64 + _METADATA_ROOM_BYTES
