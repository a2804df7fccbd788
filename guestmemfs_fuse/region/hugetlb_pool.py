"""Making and giving back the hugetlbfs mount of a region: pool, reservation, NUMA node.

Fails before anything is mounted when the pool lacks pages, with the setting that would provide them.
Called by region/choose.py.
"""

from __future__ import annotations

import errno
import os

from guestmemfs_fuse.core.errors import OutOfMemoryError, UnsupportedError
from guestmemfs_fuse.linux import hugepages, mount, mountinfo
from guestmemfs_fuse.region import hugetlb


def is_there(root_path: str) -> bool:
    """Whether a hugetlbfs stands at root_path."""
    entry = mountinfo.find_mountpoint(root_path)
    return entry is not None and entry.fstype == "hugetlbfs"


def missing_pages(size_bytes: int, page_bytes: int, numa_node: int | None) -> int:
    """How many pages the pool lacks for a region. Raises UnsupportedError: no such page size or node."""
    pool = _pool(page_bytes, numa_node)
    free = pool.free if numa_node is not None else pool.available
    return max(0, size_bytes // page_bytes - free)


def add_pages(pages: int, page_bytes: int, numa_node: int | None) -> int:
    """Grow the pool by `pages`; returns by how many it grew. Negative numbers give pages back."""
    before = _pool(page_bytes, numa_node).total
    return hugepages.set_pool(page_bytes, max(0, before + pages), numa_node) - before


def require_pages(size_bytes: int, page_bytes: int, numa_node: int | None) -> None:
    """Raise OutOfMemoryError, with the setting that would help, when the pool is too small."""
    missing = missing_pages(size_bytes, page_bytes, numa_node)
    if not missing:
        return
    pool = _pool(page_bytes, numa_node)
    where = f" of node {numa_node}" if numa_node is not None else ""
    raise OutOfMemoryError(
        f"the pool of {page_bytes >> 10} kB pages{where} lacks {missing} of {size_bytes // page_bytes} pages",
        hint=_advice(pool.total + missing, page_bytes, numa_node),
    )


def _advice(pages: int, page_bytes: int, numa_node: int | None) -> str:
    if numa_node is not None:
        pool = f"node{numa_node}/hugepages/hugepages-{page_bytes >> 10}kB/nr_hugepages"
        return f"--reserve grows it, or: echo {pages} > /sys/devices/system/node/{pool}"
    if page_bytes == 2 << 20:
        return f"--reserve grows it, or: sysctl vm.nr_hugepages={pages}"
    boot = f"hugepagesz={page_bytes >> 30}G hugepages={pages}"
    return f"--reserve tries to grow it; only booting with {boot} is sure"


def create(root_path: str, size_bytes: int, page_bytes: int) -> None:
    """Mount a hugetlbfs with all its pages reserved.

    Raises OutOfMemoryError when the pages went to somebody else meanwhile, UnsupportedError without hugetlb.
    """
    os.makedirs(root_path, mode=0o700, exist_ok=True)
    attributes = mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV
    try:
        options = hugetlb.mount_options(size_bytes, page_bytes)
        mount_fd = mount.new_filesystem("hugetlbfs", options, attributes, source="guestmemfs")
    except OSError as error:
        if error.errno == errno.ENOMEM:
            message = f"{size_bytes // page_bytes} pages of {page_bytes >> 10} kB cannot be reserved any more"
            raise OutOfMemoryError(message, hint="guestmemfs doctor shows the pools") from error
        raise UnsupportedError(f"cannot make a hugetlbfs: {error}", hint="guestmemfs doctor") from error
    try:
        mount.attach(mount_fd, root_path)
    finally:
        os.close(mount_fd)


def destroy(root_path: str) -> None:
    """Take the mount away: its pages go back to the pool once nobody maps them."""
    if is_there(root_path):
        mount.umount(root_path, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)


def _pool(page_bytes: int, numa_node: int | None) -> hugepages.Pool:
    pools = hugepages.read_pools() if numa_node is None else hugepages.read_node_pools()
    for pool in pools:
        if pool.page_bytes == page_bytes and pool.node == numa_node:
            return pool
    where = f" on node {numa_node}" if numa_node is not None else ""
    raise UnsupportedError(
        f"this host has no pool of {page_bytes >> 10} kB pages{where}",
        hint="guestmemfs doctor shows the pools; 1G pages need a CPU with pdpe1gb",
    )
