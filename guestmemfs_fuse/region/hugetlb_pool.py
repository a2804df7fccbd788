"""Making and giving back the hugetlbfs mount of a region: pool, reservation, NUMA node.

Fails before anything is mounted when the pool lacks pages, with the setting that would provide them.
Called by region/choose.py.
"""

from __future__ import annotations

import errno
import os

from guestmemfs_fuse.core.errors import OutOfMemoryError, UnsupportedError
from guestmemfs_fuse.linux import hugepages, mount, mountinfo
from guestmemfs_fuse.linux.hugepages import page_size_text
from guestmemfs_fuse.metadata.instance_config import InstanceConfig


def is_there(root_path: str) -> bool:
    """Whether a hugetlbfs stands at root_path."""
    return mountinfo.find_mountpoint(root_path, "hugetlbfs") is not None


def missing_pages(size_bytes: int, page_bytes: int, numa_node: int | None) -> int:
    """How many pages the pool lacks for a region. Raises UnsupportedError: no such page size or node.

    A node's pool does not say how many of its free pages are promised, so those of the whole host are taken
    to be as many: a promise may be kept on any node.
    """
    pool = pool_of(page_bytes, numa_node)
    free = min(pool.free, pool_of(page_bytes, None).available) if numa_node is not None else pool.available
    return max(0, size_bytes // page_bytes - free)


def require_pages(size_bytes: int, page_bytes: int, numa_node: int | None) -> None:
    """Raise OutOfMemoryError, with the setting that would help, when the pool is too small."""
    missing = missing_pages(size_bytes, page_bytes, numa_node)
    if not missing:
        return
    pool = pool_of(page_bytes, numa_node)
    raise OutOfMemoryError(
        f"the pool of {_named(page_bytes, numa_node)} lacks {missing} of {size_bytes // page_bytes}",
        hint=f"mount with --reserve, or: {_setting(pool.total + missing, page_bytes, numa_node)}",
    )


def too_few(config: InstanceConfig, wanted: int, got: int) -> OutOfMemoryError:
    """The error for a pool that did not grow as far as was asked."""
    pool = pool_of(config.block_bytes, config.numa_node)
    boot = _boot_option(pool.total + wanted, config.block_bytes)
    return OutOfMemoryError(
        f"the kernel found only {got} of {wanted} more {_named(config.block_bytes, config.numa_node)}",
        hint=f"its memory is fragmented or used; booting with `{boot}` is sure",
    )


def _named(page_bytes: int, numa_node: int | None) -> str:
    where = f" on node {numa_node}" if numa_node is not None else ""
    return f"{page_size_text(page_bytes)} pages{where}"


def _setting(pages: int, page_bytes: int, numa_node: int | None) -> str:
    """What would give a pool that many pages."""
    if numa_node is not None:
        return f"echo {pages} > {hugepages.pool_path(page_bytes, numa_node)}"
    if page_bytes == 2 << 20:
        return f"sysctl vm.nr_hugepages={pages}"
    return f"boot with `{_boot_option(pages, page_bytes)}`"


def _boot_option(pages: int, page_bytes: int) -> str:
    return f"hugepagesz={page_size_text(page_bytes)} hugepages={pages}"


def create(root_path: str, size_bytes: int, page_bytes: int) -> None:
    """Mount a hugetlbfs with all its pages reserved: its size, in whole pages, is also its reservation.

    Raises OutOfMemoryError when the pages went to somebody else meanwhile, UnsupportedError without hugetlb.
    """
    os.makedirs(root_path, mode=0o700, exist_ok=True)
    size = str(size_bytes)
    options = {"pagesize": str(page_bytes), "size": size, "min_size": size, "mode": "0700"}
    attributes = mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV
    try:
        mount_fd = mount.new_filesystem("hugetlbfs", options, attributes, source="guestmemfs")
    except OSError as error:
        if error.errno == errno.ENOMEM:
            message = f"{size_bytes // page_bytes} {_named(page_bytes, None)} cannot be reserved any more"
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


def pool_of(page_bytes: int, numa_node: int | None) -> hugepages.Pool:
    """The pool of a page size, of a node or of the host. Raises UnsupportedError when there is none."""
    pools = hugepages.read_pools() if numa_node is None else hugepages.read_node_pools()
    for pool in pools:
        if pool.page_bytes == page_bytes and pool.node == numa_node:
            return pool
    raise UnsupportedError(
        f"this host has no pool of {_named(page_bytes, numa_node)}",
        hint="guestmemfs doctor shows the pools; 1G pages need a CPU with pdpe1gb",
    )
