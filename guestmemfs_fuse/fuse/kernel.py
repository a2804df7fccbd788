"""The live connection as the engine sees it (engine/kernel.Kernel), over fuse/device.

Called by the engine; built by the daemon.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from guestmemfs_fuse.core.types import BackingId, Ino
from guestmemfs_fuse.fuse import device
from guestmemfs_fuse.fuse.abi import InitFlag


class FuseKernel:
    """Asks and tells the kernel about inodes of one /dev/fuse connection. Does not own the descriptor."""

    def __init__(self, fuse_fd: int, agreed: Callable[[], InitFlag]) -> None:
        """agreed: what INIT was negotiated to (Relay.init_flags)."""
        self._fuse_fd = fuse_fd
        self._agreed = agreed

    @property
    def has_passthrough(self) -> bool:
        """See Kernel.has_passthrough."""
        return InitFlag.PASSTHROUGH in self._agreed()

    def backing_open(self, backing_fd: int) -> BackingId:
        """See Kernel.backing_open."""
        return BackingId(device.backing_open(self._fuse_fd, backing_fd))

    def backing_close(self, backing_id: BackingId) -> None:
        """See Kernel.backing_close."""
        try:
            device.backing_close(self._fuse_fd, backing_id)
        except OSError as error:
            if error.errno != errno.ENOENT:
                raise

    def knows(self, ino: Ino) -> bool:
        """See Kernel.knows. A connection that ended holds nothing."""
        try:
            return device.kernel_knows(self._fuse_fd, ino)
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.ENOTCONN, errno.ECONNABORTED, errno.EPERM):
                return False
            raise

    def invalidate_inode(self, ino: Ino) -> None:
        """See Kernel.invalidate_inode: asking whether it is cached does that."""
        self.knows(ino)

    def invalidate_entry(self, parent: Ino, name: bytes) -> None:
        """See Kernel.invalidate_entry. Blocks: from a thread only (see fuse/device)."""
        device.invalidate_entry(self._fuse_fd, parent, name)
