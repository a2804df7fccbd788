"""The values every room speaks in: numbers with a meaning, extents, time stamps, limits.

Invariants: values only, immutable. Called by every room above core.
"""

from __future__ import annotations

from typing import Final, NewType

from guestmemfs_fuse.core.value import value

Ino = NewType("Ino", int)
"""An inode number; also the FUSE nodeid. Never reused within an instance."""

BackingId = NewType("BackingId", int)
"""What FUSE_DEV_IOC_BACKING_OPEN returned; lives as long as the FUSE connection."""

BlockNumber = NewType("BlockNumber", int)
"""Index of a block in a region whose files are extents."""

Cookie = NewType("Cookie", int)
"""Position of an entry in its directory: grows with every insertion, never reused (readdir offsets)."""

Unique = NewType("Unique", int)
"""The kernel's number of one FUSE request, without the resend bit; 0 where there is no request."""

ROOT_INO: Final = Ino(1)
FIRST_FREE_INO: Final = Ino(2)
NO_REQUEST: Final = Unique(0)

NAME_MAX_BYTES: Final = 255
SYMLINK_MAX_BYTES: Final = 4095
FILE_MAX_BYTES: Final = 1 << 49
"""Half a pebibyte, more than a host's memory: a larger size is a mistake (EFBIG), a smaller one that does not
fit is want of room (ENOSPC)."""
LINK_MAX: Final = 65_000
XATTR_NAME_MAX_BYTES: Final = 255
XATTR_VALUE_MAX_BYTES: Final = 65_536
XATTR_INODE_MAX_BYTES: Final = 65_536
"""What all extended attributes of one inode may hold, names and values (the VFS list limit)."""

TIME_MIN_NS: Final = -(1 << 63)
TIME_MAX_NS: Final = (1 << 63) - 1

RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
XATTR_CREATE: Final = 1
XATTR_REPLACE: Final = 2


@value
class Extent:
    """A run of blocks of a region: `count` blocks from `start`."""

    start: BlockNumber
    count: int

    @property
    def end(self) -> BlockNumber:
        """The first block behind the run."""
        return BlockNumber(self.start + self.count)


@value
class UserLimits:
    """What one unprivileged user may own in an instance; root is not limited."""

    max_files: int = 250_000
    max_xattr_bytes: int = 64 << 20


def blocks_of(size_bytes: int, block_bytes: int) -> int:
    """How many whole blocks hold `size_bytes`."""
    return -(-size_bytes // block_bytes)


def round_up(size_bytes: int, block_bytes: int) -> int:
    """`size_bytes` rounded up to whole blocks, in bytes."""
    return -(-size_bytes // block_bytes) * block_bytes


def round_down(size_bytes: int, block_bytes: int) -> int:
    """`size_bytes` rounded down to whole blocks, in bytes."""
    return size_bytes // block_bytes * block_bytes
