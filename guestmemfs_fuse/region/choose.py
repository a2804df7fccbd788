"""From an instance's configuration to its region, whatever its kind.

The only place that knows all kinds. A kind's own module is imported when a region of it is made or opened:
whether one is there is asked by every command. Called by the daemon (open, create) and the command line
(destroy, offline status and fsck).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from guestmemfs_fuse.metadata.instance_config import InstanceConfig, Paths
from guestmemfs_fuse.region import hugetlb_pool, tmpfs_mount

if TYPE_CHECKING:
    from guestmemfs_fuse.region.base import OpenRegion
    from guestmemfs_fuse.region.memfd import FdStore, MemfdRegion
    from guestmemfs_fuse.region.tmpfs import TmpfsRegion

ReceivedFds = Mapping[str, list[int]]


def region_is_there(config: InstanceConfig, paths: Paths, received: ReceivedFds | None = None) -> bool:
    """Whether the memory of this instance still exists, as far as can be seen from here.

    received: descriptors from the fd store; a memfd region is nowhere else.
    """
    if config.kind == "memfd":
        from guestmemfs_fuse.region import memfd

        return memfd.MOUNT_NAME in (received or {})
    if config.kind == "hugetlb":
        return hugetlb_pool.is_there(paths.region)
    if config.kind == "dax":
        return os.path.isdir(os.path.join(paths.region, "data"))
    return tmpfs_mount.is_there(paths.region)


def create_region(config: InstanceConfig, paths: Paths, store: FdStore) -> ReceivedFds:
    """Make the memory of a new instance; returns descriptors that `open_region` needs besides the received.

    Raises OutOfMemoryError or UnsupportedError; then nothing is left behind.
    """
    if config.kind == "memfd":
        from guestmemfs_fuse.region import memfd

        return memfd.create(store, config.size_bytes, config.numa_node)
    if config.kind == "hugetlb":
        hugetlb_pool.require_pages(config.size_bytes, config.block_bytes, config.numa_node)
        hugetlb_pool.create(paths.region, config.size_bytes, config.block_bytes)
        return {}
    if config.kind == "dax":
        from guestmemfs_fuse.region import dax

        dax.create(paths.region, config.size_bytes)
    else:
        tmpfs_mount.create(paths.region, config.size_bytes, config.numa_node)
    return {}


def metadata_path(config: InstanceConfig, paths: Paths) -> str:
    """Where an existing region's metadata is, without opening the region."""
    if config.kind in ("memfd", "hugetlb"):
        return paths.metadata
    return os.path.join(paths.region, "metadata")


def open_region(config: InstanceConfig, paths: Paths, received: ReceivedFds, store: FdStore) -> OpenRegion:
    """Attach to memory that is there. Raises OSError when it is not."""
    sizes = (config.size_bytes, config.block_bytes, config.numa_node)
    region: MemfdRegion | TmpfsRegion
    if config.kind == "hugetlb":
        from guestmemfs_fuse.region.hugetlb import HugetlbRegion

        return HugetlbRegion(paths.region, paths.metadata, *sizes)
    if config.kind == "dax":
        from guestmemfs_fuse.region.dax import DaxRegion

        return DaxRegion(paths.region, *sizes)
    if config.kind == "memfd":
        from guestmemfs_fuse.region.memfd import MemfdRegion

        region = MemfdRegion(received, store, paths.metadata, *sizes)
    else:
        from guestmemfs_fuse.region.tmpfs import TmpfsRegion

        region = TmpfsRegion(paths.region, *sizes)
    from guestmemfs_fuse.region.huge_policy import HugePolicy

    region.huge_policy = HugePolicy(config.huge, config.numa_node)
    return region


def destroy_region(config: InstanceConfig, paths: Paths) -> None:
    """Give the memory back, for good. Doing it twice is harmless.

    A memfd region's memory goes with the fd store (the holder's end); here only its metadata does.
    """
    import shutil

    if config.kind in ("memfd", "hugetlb"):
        shutil.rmtree(paths.metadata, ignore_errors=True)
        hugetlb_pool.destroy(paths.region)
        return
    tmpfs_mount.destroy(paths.region)
    if config.kind == "dax":
        shutil.rmtree(paths.region, ignore_errors=True)
