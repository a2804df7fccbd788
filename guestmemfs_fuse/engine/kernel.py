"""What the engine asks of the FUSE connection; fuse/device provides it, tests fake it."""

from __future__ import annotations

from typing import Protocol

from guestmemfs_fuse.core.types import BackingId, Ino


class Kernel(Protocol):
    """The live FUSE connection, seen from below."""

    @property
    def has_passthrough(self) -> bool:
        """Whether backing files can be registered at all (Linux >= 6.9)."""

    def backing_open(self, backing_fd: int) -> BackingId:
        """Register a backing file. Raises OSError."""

    def backing_close(self, backing_id: BackingId) -> None:
        """Give a registration back. Unknown ids are ignored."""

    def knows(self, ino: Ino) -> bool:
        """Whether the kernel holds this inode: some dentry, open file or mapping refers to it."""

    def invalidate_inode(self, ino: Ino) -> None:
        """Drop cached attributes of an inode that changed without the kernel asking for it."""

    def invalidate_entry(self, parent: Ino, name: bytes) -> None:
        """Drop a cached name."""
