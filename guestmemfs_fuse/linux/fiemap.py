"""FIEMAP: where a file's blocks are on its device, allocated or not, used or not.

Unlike SEEK_HOLE it knows extents that are allocated but unwritten (fallocate on ext4 and xfs). Without
FIEMAP_FLAG_SYNC on purpose: on DAX that flushes every line of guest memory that was stored to and write
protects it, and DAX has no delayed allocation whose outcome one would have to wait for. Source:
include/uapi/linux/fiemap.h, include/uapi/linux/fs.h. Called by region/dax.py.
"""

from __future__ import annotations

import fcntl
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

_FS_IOC_FIEMAP: Final = 0xC020660B
_HEAD = struct.Struct("=QQIIII")  # start length flags mapped_extents extent_count reserved
_EXTENT = struct.Struct("=QQQ16xI12x")  # logical physical length reserved flags reserved
_EXTENT_LAST: Final = 0x1
_EXTENT_UNKNOWN: Final = 0x2
_BATCH: Final = 256


@dataclass(frozen=True, slots=True)
class DeviceExtent:
    """A run of allocated bytes of a file: where in the file, where on the device, how long."""

    offset_bytes: int
    device_offset_bytes: int
    length_bytes: int


def extents(fd: int, start: int, end: int) -> Iterator[DeviceExtent]:
    """Allocated parts of [start, end) of a file, in order, cut to the range. Raises OSError."""
    at = start
    while at < end:
        buffer = bytearray(_HEAD.size + _BATCH * _EXTENT.size)
        _HEAD.pack_into(buffer, 0, at, end - at, 0, 0, _BATCH, 0)
        fcntl.ioctl(fd, _FS_IOC_FIEMAP, buffer)
        mapped = _HEAD.unpack_from(buffer)[3]
        if not mapped:
            return
        for index in range(mapped):
            logical, physical, length, flags = _EXTENT.unpack_from(buffer, _HEAD.size + index * _EXTENT.size)
            first, last = max(logical, start), min(logical + length, end)
            if first < last and not flags & _EXTENT_UNKNOWN:
                yield DeviceExtent(first, physical + first - logical, last - first)
            at = logical + length
            if flags & _EXTENT_LAST:
                return
