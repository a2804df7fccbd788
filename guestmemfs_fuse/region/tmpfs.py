"""The default kind: a tmpfs mount of our own in the state directory, one backing file per inode.

The mount stands in the host's mount table, so nobody has to hold it: it outlives every process of ours.
Huge pages come from the mount's own `huge=always`, whatever the host's sysfs setting says; `noswap`
keeps guest memory in memory. The tmpfs is larger than the region by room for the metadata; what files
may take is enforced here.

Called by region/choose.py and the engine.
"""

from __future__ import annotations

import errno
import os
from typing import Final

from guestmemfs_fuse.core.errors import InstanceBusyError, OutOfMemoryError, UnsupportedError
from guestmemfs_fuse.linux import mount, mountinfo
from guestmemfs_fuse.region import host_memory
from guestmemfs_fuse.region.named_files import NamedBackingFiles

HUGE_PAGE_BYTES: Final = 2 << 20
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
    total_bytes = host_memory.total_bytes()
    if size_bytes > total_bytes:
        raise OutOfMemoryError(
            f"a region of {size_bytes >> 20} MiB does not fit into the {total_bytes >> 20} MiB of this host",
            hint="choose a smaller --size",
        )
    os.makedirs(root_path, mode=0o700, exist_ok=True)
    options: dict[str, str | None] = {
        "size": str(_mount_size(size_bytes)),
        "mode": "0700",
        "huge": "always",
        "noswap": None,
    }
    if numa_node is not None:
        options["mpol"] = f"bind:{numa_node}"
    mount_fd = _new_tmpfs(options)
    try:
        mount.attach(mount_fd, root_path)
    finally:
        os.close(mount_fd)


def _new_tmpfs(options: dict[str, str | None]) -> int:
    attributes = mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV
    try:
        return mount.new_filesystem("tmpfs", options, attributes, source="guestmemfs")
    except OSError as error:
        if error.errno != errno.EINVAL or "noswap" not in options:
            raise UnsupportedError(
                f"cannot make a tmpfs: {error}", hint="guestmemfs doctor says more"
            ) from error
    # noswap came with Linux 6.4; before it, guest memory can be swapped as any tmpfs's.
    return _new_tmpfs({name: value for name, value in options.items() if name != "noswap"})


def destroy(root_path: str) -> None:
    """Give the memory back: take the tmpfs away. Mappings that exist keep their pages."""
    if is_there(root_path):
        mount.umount(root_path, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)


def _mount_size(size_bytes: int) -> int:
    return size_bytes + size_bytes // 64 + _METADATA_ROOM_BYTES
