"""What the command line needs of the host before it begins. Called by the commands."""

from __future__ import annotations

import os

from guestmemfs_fuse.core.errors import UnsupportedError
from guestmemfs_fuse.linux.privilege import NEEDS_ROOT, lacking_privilege

FUSE_DEVICE = "/dev/fuse"


def require_root() -> None:
    """Raises UnsupportedError unless we are root: state directories, mounts and the daemon are root's."""
    if os.geteuid() != 0:
        raise UnsupportedError("this needs root", hint="use sudo")


def require_fuse() -> None:
    """Raises UnsupportedError when we may not mount, or /dev/fuse is missing or has no driver behind it."""
    if (lacking := lacking_privilege()) is not None:
        raise UnsupportedError(lacking, hint=NEEDS_ROOT)
    try:
        os.close(os.open(FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise UnsupportedError(
            f"cannot open {FUSE_DEVICE}: {error.strerror}",
            hint="`modprobe fuse`; `guestmemfs doctor` says more",
        ) from error
