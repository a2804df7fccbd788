"""From an instance's configuration to its region, whatever its kind.

The only place that knows all kinds. Called by the daemon (open, create) and the command line (destroy,
offline status and fsck).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from typing import Protocol

from guestmemfs_fuse.core.state import State
from guestmemfs_fuse.metadata.instance_config import InstanceConfig, Paths
from guestmemfs_fuse.region import dax, hugetlb, hugetlb_pool, memfd, tmpfs
from guestmemfs_fuse.region.base import Region
from guestmemfs_fuse.region.huge_policy import HugePolicy
from guestmemfs_fuse.region.memfd import FdStore

ReceivedFds = Mapping[str, list[int]]


class OpenRegion(Region, Protocol):
    """A region together with the directory its metadata lives in."""

    @property
    def metadata_path(self) -> str:
        """Directory of journal and snapshot."""

    def attach(self, state: State) -> None:
        """Take the state whose files these are, once it is loaded."""

    def holds_data(self) -> bool:
        """Whether there are files' bytes in the region: then it must not be started afresh."""

    def handover_fds(self) -> dict[str, list[int]]:
        """Descriptors a successor needs, by their names in the fd store."""

    def close(self) -> None:
        """Let go of descriptors; no memory is given up."""


def region_is_there(config: InstanceConfig, paths: Paths, received: ReceivedFds | None = None) -> bool:
    """Whether the memory of this instance still exists, as far as can be seen from here.

    received: descriptors from the fd store; a memfd region is nowhere else.
    """
    if config.kind == "memfd":
        return memfd.MOUNT_NAME in (received or {})
    if config.kind == "hugetlb":
        return hugetlb_pool.is_there(paths.region)
    if config.kind == "dax":
        return os.path.isdir(os.path.join(paths.region, "data"))
    return tmpfs.is_there(paths.region)


def create_region(config: InstanceConfig, paths: Paths, store: FdStore) -> ReceivedFds:
    """Make the memory of a new instance; returns descriptors that `open_region` needs besides the received.

    Raises OutOfMemoryError or UnsupportedError; then nothing is left behind.
    """
    if config.kind == "memfd":
        return memfd.create(store, config.size_bytes, config.numa_node)
    if config.kind == "hugetlb":
        hugetlb_pool.require_pages(config.size_bytes, config.block_bytes, config.numa_node)
        hugetlb_pool.create(paths.region, config.size_bytes, config.block_bytes)
        return {}
    if config.kind == "dax":
        dax.create(paths.region, config.size_bytes)
    else:
        tmpfs.create(paths.region, config.size_bytes, config.numa_node)
    return {}


def metadata_path(config: InstanceConfig, paths: Paths) -> str:
    """Where an existing region's metadata is, without opening the region."""
    if config.kind in ("memfd", "hugetlb"):
        return paths.metadata
    return os.path.join(paths.region, "metadata")


def open_region(config: InstanceConfig, paths: Paths, received: ReceivedFds, store: FdStore) -> OpenRegion:
    """Attach to memory that is there. Raises OSError when it is not."""
    sizes = (config.size_bytes, config.block_bytes, config.numa_node)
    region: memfd.MemfdRegion | tmpfs.TmpfsRegion
    if config.kind == "hugetlb":
        return hugetlb.HugetlbRegion(paths.region, paths.metadata, *sizes)
    if config.kind == "dax":
        return dax.DaxRegion(paths.region, *sizes)
    if config.kind == "memfd":
        region = memfd.MemfdRegion(received, store, paths.metadata, *sizes)
    else:
        region = tmpfs.TmpfsRegion(paths.region, *sizes)
    region.huge_policy = HugePolicy(config.huge, config.numa_node)
    return region


def destroy_region(config: InstanceConfig, paths: Paths) -> None:
    """Give the memory back, for good. Doing it twice is harmless.

    A memfd region's memory goes with the fd store (the holder's end); here only its metadata does.
    """
    if config.kind in ("memfd", "hugetlb"):
        shutil.rmtree(paths.metadata, ignore_errors=True)
        hugetlb_pool.destroy(paths.region)
        return
    tmpfs.destroy(paths.region)
    if config.kind == "dax":
        shutil.rmtree(paths.region, ignore_errors=True)
