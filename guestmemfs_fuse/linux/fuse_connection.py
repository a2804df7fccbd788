"""A FUSE connection seen from outside, by its number: that of the device its superblock has.

The control filesystem (fusectl, fs/fuse/control.c in the kernel) has a directory for each connection. Hosts
need not have it mounted: we make a mount of our own that nobody else sees.

Invariant: the number is looked up once, while the caller knows whose it is. When that connection is gone, an
open file of it does nothing (fuse_ctl_remove_conn), even where the number belongs to another one by then.
Called by cli/unit_stop.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from guestmemfs_fuse.linux import mount

_ATTRS: Final = mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV | mount.MOUNT_ATTR_NOEXEC


@contextmanager
def aborter(number: int) -> Iterator[Callable[[], None]]:
    """What ends the connection, whoever uses it: their calls fail with ENOTCONN, what is mapped stays mapped.

    number: the minor device number of its filesystem. Calling it does nothing when the connection has ended.
    Raises OSError: FileNotFoundError when there is no such connection, EPERM without CAP_SYS_ADMIN.
    """
    control_fd = mount.new_filesystem("fusectl", {}, _ATTRS)
    try:
        abort_fd = os.open(f"{number}/abort", os.O_WRONLY | os.O_CLOEXEC, dir_fd=control_fd)
    finally:
        os.close(control_fd)
    try:
        yield lambda: _write(abort_fd)
    finally:
        os.close(abort_fd)


def _write(abort_fd: int) -> None:
    os.write(abort_fd, b"1")
