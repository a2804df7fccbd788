"""The /dev/fuse connection a daemon serves: taken over from the store, or made by mounting.

A stored connection is resumed only when it is the one the metadata knows (same superblock, with the INIT
request to replay) and its mount still stands; otherwise it is of no use, is dropped, and the
instance is mounted anew. Open files of the dropped connection fail; what is mapped stays mapped.

Called by the daemon. Owns the descriptor until the daemon closes it.
"""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import dataclass

from guestmemfs_fuse.core.errors import GuestmemfsError, UnknownTargetError, UnsupportedError, UsageError
from guestmemfs_fuse.core.state import State
from guestmemfs_fuse.fuse import device
from guestmemfs_fuse.linux import mount, mountinfo

log = logging.getLogger(__name__)


class MountGoneError(GuestmemfsError):
    """Somebody unmounted while no daemon served: what was asked for, so there is nothing to serve."""


@dataclass(frozen=True, slots=True)
class Connection:
    """device: dev_t of the mount; stored_init: the INIT to replay, None on a fresh connection."""

    fd: int
    device: int
    stored_init: bytes | None

    @property
    def fresh(self) -> bool:
        return self.stored_init is None


def connect(mountpoint: str, name: str, stored_fds: list[int], state: State) -> Connection:
    """Take the connection over from the store, or mount a new one.

    mountpoint: canonical, an existing directory; name: what mount tables show as source.
    Raises MountGoneError when it was unmounted meanwhile, UnsupportedError (no /dev/fuse, not root),
    UnknownTargetError or UsageError (mountpoint).
    """
    there = mounted_device(mountpoint, name)
    session = state.session
    if stored_fds and session is not None and there in (None, session.device):
        for fd in stored_fds[:-1]:
            os.close(fd)
        # Without a mount it may have been detached (umount -l) while somebody still uses it.
        if there is None and not device.is_connected(stored_fds[-1]):
            os.close(stored_fds[-1])
            raise MountGoneError(f"{mountpoint} was unmounted while no daemon served it")
        return Connection(stored_fds[-1], session.device, session.init_request)
    for fd in stored_fds:
        log.warning("the stored connection is not the one of the mount at %s; mounting anew", mountpoint)
        os.close(fd)
    if there is not None:
        mount.umount(mountpoint, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
    return _mount(mountpoint, name)


def mounted_device(mountpoint: str, name: str) -> int | None:
    """The dev_t of the instance's mount at mountpoint, or None. Never touches the mountpoint."""
    entry = mountinfo.of_instance(mountpoint, name)
    return os.makedev(*entry.dev) if entry is not None else None


def _mount(mountpoint: str, name: str) -> Connection:
    try:
        fd = device.open_device()
    except OSError as error:
        raise UnsupportedError(
            f"cannot open /dev/fuse: {error.strerror}", hint="be root, and `modprobe fuse`"
        ) from error
    try:
        device.mount_fuse(fd, mountpoint, source=name)
        there = mounted_device(mountpoint, name)
        if there is None:
            raise UnsupportedError(f"the mount at {mountpoint} disappeared at once")
    except OSError as error:
        os.close(fd)
        raise _mount_error(mountpoint, error) from error
    except BaseException:
        os.close(fd)
        raise
    return Connection(fd, there, None)


def _mount_error(mountpoint: str, error: OSError) -> Exception:
    if error.errno in (errno.ENOENT, errno.ENOTCONN):
        return UnknownTargetError(f"no directory {mountpoint}", hint="make it first")
    if error.errno == errno.ENOTDIR:
        return UsageError(f"{mountpoint} is no directory")
    if error.errno == errno.EPERM:
        return UnsupportedError("mounting needs root in the initial user namespace")
    return UnsupportedError(f"cannot mount at {mountpoint}: {error.strerror}")
