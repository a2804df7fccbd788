"""A tmpfs instance of our own: huge pages by its own option, no swap, bound to a NUMA node if asked.

Called by region/tmpfs.py (attaches it in the state directory) and region/memfd.py (never attaches it).
"""

from __future__ import annotations

import errno

from guestmemfs_fuse.core.errors import OutOfMemoryError, UnsupportedError
from guestmemfs_fuse.linux import mount
from guestmemfs_fuse.region import host_memory


def new(region_bytes: int, mount_bytes: int, numa_node: int | None) -> int:
    """A tmpfs that is mounted nowhere yet; returns its mount fd.

    region_bytes: what files may take, compared with the host's memory; mount_bytes: the filesystem's size.
    Raises OutOfMemoryError, or UnsupportedError naming the option the kernel refused.
    """
    total_bytes = host_memory.total_bytes()
    if region_bytes > total_bytes:
        raise OutOfMemoryError(
            f"{region_bytes >> 20} MiB do not fit into the {total_bytes >> 20} MiB of this host",
            hint="choose a smaller --size",
        )
    options: dict[str, str | None] = {
        "size": str(mount_bytes),
        "mode": "0700",
        "huge": "always",
        "noswap": None,
    }
    if numa_node is not None:
        options["mpol"] = f"bind:{numa_node}"
    return _new(options)


def _new(options: dict[str, str | None]) -> int:
    attributes = mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV
    try:
        return mount.new_filesystem("tmpfs", options, attributes, source="guestmemfs")
    except OSError as error:
        if error.errno != errno.EINVAL or "noswap" not in options:
            raise UnsupportedError(
                f"cannot make a tmpfs: {error}", hint="guestmemfs doctor says more"
            ) from error
    # noswap came with Linux 6.4; before it, guest memory can be swapped as any tmpfs's.
    return _new({name: value for name, value in options.items() if name != "noswap"})
