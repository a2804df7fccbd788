"""statx(2), for what os.stat does not tell: the DAX attribute and the mount id.

Source: statx(2), include/uapi/linux/stat.h. Called by the dax region and the probes; never on a path inside
our own FUSE mount by the daemon.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from guestmemfs_fuse.linux import libc

STATX_BASIC_STATS = 0x7FF
STATX_MNT_ID = 0x1000
STATX_ATTR_DAX = 0x00200000

_AT_FDCWD = -100
_AT_SYMLINK_NOFOLLOW = 0x100
_AT_EMPTY_PATH = 0x1000
_BUFFER_BYTES = 256
_HEAD = struct.Struct(
    "=IIQIIIHxxQQQQ"
)  # mask blksize attributes nlink uid gid mode ino size blocks attr_mask
_DEVICES = struct.Struct("=IIIIQ")  # rdev major/minor, dev major/minor, mnt_id
_DEVICES_AT = 128


@dataclass(frozen=True, slots=True)
class Statx:
    """The part of struct statx that this project uses."""

    attributes: int
    attributes_mask: int
    ino: int
    size_bytes: int
    allocated_bytes: int
    nlink: int
    dev: tuple[int, int]
    mount_id: int

    @property
    def is_dax(self) -> bool:
        """Loads and stores go to the medium, without page cache."""
        return bool(self.attributes & STATX_ATTR_DAX)


def parse(raw: bytes | bytearray) -> Statx:
    """Decode a struct statx of 256 bytes."""
    _, _, attributes, nlink, _, _, _, ino, size, blocks, mask = _HEAD.unpack_from(raw)
    _, _, major, minor, mount_id = _DEVICES.unpack_from(raw, _DEVICES_AT)
    return Statx(
        attributes=attributes,
        attributes_mask=mask,
        ino=ino,
        size_bytes=size,
        allocated_bytes=blocks * 512,
        nlink=nlink,
        dev=(major, minor),
        mount_id=mount_id,
    )


def statx(path_or_fd: str | int, *, follow: bool = True) -> Statx:
    """statx(2) of a path or an open descriptor. Raises OSError naming the path."""
    buffer = bytearray(_BUFFER_BYTES)
    mask = STATX_BASIC_STATS | STATX_MNT_ID
    if isinstance(path_or_fd, int):
        libc.call("statx", path_or_fd, "", _AT_EMPTY_PATH, mask, buffer)
    else:
        flags = 0 if follow else _AT_SYMLINK_NOFOLLOW
        libc.call("statx", _AT_FDCWD, path_or_fd, flags, mask, buffer, about=path_or_fd)
    return parse(buffer)
