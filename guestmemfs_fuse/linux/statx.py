"""statx(2), for the one thing that os.stat does not tell: the DAX attribute.

Source: statx(2), include/uapi/linux/stat.h. Called by the dax region.
"""

from __future__ import annotations

from typing import Final

from guestmemfs_fuse.linux import libc

_STATX_BASIC_STATS: Final = 0x7FF
_STATX_ATTR_DAX: Final = 0x00200000
_AT_EMPTY_PATH: Final = 0x1000
_BUFFER_BYTES: Final = 256
_ATTRIBUTES_AT: Final = slice(8, 16)  # struct statx: mask, blksize, attributes


def is_dax(fd: int) -> bool:
    """Whether loads and stores of an open file go to the medium, without page cache. Raises OSError."""
    buffer = bytearray(_BUFFER_BYTES)
    libc.call("statx", fd, "", _AT_EMPTY_PATH, _STATX_BASIC_STATS, buffer)
    return has_dax(buffer)


def has_dax(raw: bytes | bytearray) -> bool:
    """Whether a struct statx has the attribute."""
    return bool(int.from_bytes(raw[_ATTRIBUTES_AT], "little") & _STATX_ATTR_DAX)
