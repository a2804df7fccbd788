"""The default kind: a tmpfs mount of our own in the state directory, one backing file per inode.

The mount itself is made and given back in tmpfs_mount.py. It is larger than the region by room for the
metadata; what files may take is enforced here.

Called by region/choose.py and the engine.
"""

from __future__ import annotations

from guestmemfs_fuse.core.errors import InstanceBusyError, OutOfMemoryError
from guestmemfs_fuse.linux import mount
from guestmemfs_fuse.region import host_memory
from guestmemfs_fuse.region.named_files import NamedBackingFiles
from guestmemfs_fuse.region.tmpfs_mount import mount_bytes


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
        mount.reconfigure(self.root_path, {"size": str(mount_bytes(size_bytes))})
        self.size_bytes = size_bytes
