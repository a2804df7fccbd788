"""Probes of FUSE: the device, and whether mmap can be passed through to a backing file.

The passthrough probe holds a whole FUSE handshake, on a superblock that is attached to no directory: the
answer to INIT is written by hand, then a tmpfs file is registered as a backing file. Closing the descriptors
is all the cleanup there is. Struct layouts: include/uapi/linux/fuse.h.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct

from guestmemfs_fuse.linux import mount
from guestmemfs_fuse.linux.probe import Finding, Probe, guarded

_DEVICE = "/dev/fuse"
_INIT = 26
_TIMEOUT_S = 2.0
_IN_HEADER = struct.Struct("=IIQQIIIHH")
_INIT_IN = struct.Struct("=IIIII")  # major minor max_readahead flags flags2
_OUT_HEADER = struct.Struct("=IiQ")
_INIT_OUT = struct.Struct("=IIIIHHIIHHII24x")
_FLAG_INIT_EXT = 1 << 30
_FLAG2_PASSTHROUGH = 1 << (37 - 32)
_BACKING_OPEN = 0x4010E501  # _IOW(229, 1, struct fuse_backing_map)
_BACKING_MAP = struct.Struct("=iIQ")
_READ_BYTES = 1 << 17

_NEWER_KERNEL = (
    "boot a kernel >= 6.9 with CONFIG_FUSE_PASSTHROUGH=y (Debian 12: the linux-image-amd64 package of"
    " bookworm-backports); until then start the VMM with `guestmemfs run`"
)


def device() -> Probe:
    """Whether /dev/fuse can be opened."""

    def find() -> Finding:
        os.close(os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC))
        return True, f"{_DEVICE} opens", None

    return guarded("fuse-device", find, "load the fuse module: modprobe fuse (CONFIG_FUSE_FS)")


def passthrough() -> Probe:
    """Whether a FUSE file's mmap can reach a tmpfs file's own pages."""
    return guarded("fuse-passthrough", _find_passthrough, _NEWER_KERNEL)


def _find_passthrough() -> Finding:
    fuse_fd = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    mount_fd = tmpfs_fd = backing_fd = -1
    try:
        options = {"fd": str(fuse_fd), "rootmode": "40000", "user_id": "0", "group_id": "0"}
        mount_fd = mount.new_filesystem("fuse", options, source="guestmemfs-probe")
        if not _negotiate(fuse_fd):
            return False, "the kernel's INIT request does not offer passthrough", _NEWER_KERNEL
        tmpfs_fd = mount.new_filesystem("tmpfs", {"size": "2M", "mode": "0700"})
        backing_fd = os.open(".", os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=tmpfs_fd)
        request = bytearray(_BACKING_MAP.pack(backing_fd, 0, 0))
        try:
            backing_id = fcntl.ioctl(fuse_fd, _BACKING_OPEN, request)
        except PermissionError:
            return False, "registering a backing file: not permitted", "run as root, outside of containers"
        return True, f"a tmpfs file was registered as backing id {backing_id}", None
    finally:
        # The connection goes first: it then is dead, and nothing that follows can wait for an answer.
        for fd in (fuse_fd, backing_fd, tmpfs_fd, mount_fd):
            if fd >= 0:
                os.close(fd)


def _negotiate(fuse_fd: int) -> bool:
    """Answer the kernel's INIT. Returns whether it offered passthrough; raises TimeoutError."""
    request = _read_request(fuse_fd)
    length, opcode, unique = _IN_HEADER.unpack_from(request)[:3]
    if opcode != _INIT or length < _IN_HEADER.size + _INIT_IN.size:
        raise OSError(errno.EPROTO, f"unexpected first FUSE request {opcode}")
    major, minor, readahead, flags, flags2 = _INIT_IN.unpack_from(request, _IN_HEADER.size)
    if not flags & _FLAG_INIT_EXT or not flags2 & _FLAG2_PASSTHROUGH:
        return False
    reply = _INIT_OUT.pack(
        major, minor, readahead, _FLAG_INIT_EXT,
        0, 0,  # max_background, congestion_threshold
        4096, 1,  # max_write, time_gran
        0, 0,  # max_pages, map_alignment
        _FLAG2_PASSTHROUGH, 1,  # flags2, max_stack_depth
    )  # fmt: skip
    os.write(fuse_fd, _OUT_HEADER.pack(_OUT_HEADER.size + len(reply), 0, unique) + reply)
    return True


def _read_request(fuse_fd: int) -> bytes:
    poll = select.poll()
    poll.register(fuse_fd, select.POLLIN)
    if not poll.poll(_TIMEOUT_S * 1000):
        raise TimeoutError(errno.ETIMEDOUT, "the kernel sent no INIT request")
    return os.read(fuse_fd, _READ_BYTES)
