"""The default kind: a tmpfs mount of our own in the state directory, one backing file per inode.

The mount itself is made and given back in tmpfs_mount.py. It is larger than the region by room for the
metadata; what files may take is enforced here.

Called by region/choose.py and the engine.
"""

from __future__ import annotations

import os
from functools import partial

from guestmemfs_fuse.core.errors import StaleInodeError
from guestmemfs_fuse.core.state import Inode
from guestmemfs_fuse.linux import mount
from guestmemfs_fuse.region import host_memory
from guestmemfs_fuse.region.backing_files import FREED_AT_ONCE_BYTES
from guestmemfs_fuse.region.base import RegionUse
from guestmemfs_fuse.region.named_files import NamedBackingFiles
from guestmemfs_fuse.region.tmpfs_mount import mount_bytes


class TmpfsRegion(NamedBackingFiles):
    """A region on a private tmpfs at `root_path`."""

    kind = "tmpfs"

    def discard(self, inode: Inode) -> None:
        """See Region.discard. Without its name the file is gone; its memory goes with our descriptor."""
        try:
            fd = self.open_backing(inode.ino)
        except StaleInodeError:
            return  # done before the crash that makes us do it again
        had_bytes = os.fstat(fd).st_blocks * 512
        super().discard(inode)
        if had_bytes > FREED_AT_ONCE_BYTES:
            self.freeing.take(had_bytes, partial(os.close, fd))
        else:
            os.close(fd)

    def use(self) -> RegionUse:
        """See Region.use: what is being given back is free."""
        pending_bytes = self.freeing.pending_bytes
        return RegionUse(self.size_bytes, max(0, super().use().used_bytes - pending_bytes))

    def handover_fds(self) -> dict[str, list[int]]:
        """See OpenRegion. A successor counts as used what is not back yet, and cannot wait for it."""
        self.freeing.wait()
        return super().handover_fds()

    def close(self) -> None:
        """See OpenRegion."""
        self.freeing.wait()
        super().close()

    def resize(self, size_bytes: int) -> None:
        """See Region.resize."""
        self.use().require_fits(size_bytes)
        host_memory.require_size(size_bytes)
        mount.reconfigure(self.root_path, {"size": str(mount_bytes(size_bytes))})
        self.size_bytes = size_bytes
