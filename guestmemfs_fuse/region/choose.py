"""From an instance's configuration to its region, whatever its kind.

The only place that knows all kinds. Called by the daemon (open, create) and the command line (destroy,
offline status and fsck).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from guestmemfs_fuse.core.errors import UnsupportedError
from guestmemfs_fuse.metadata.instance_config import InstanceConfig, Paths
from guestmemfs_fuse.region import tmpfs
from guestmemfs_fuse.region.base import Region

ReceivedFds = Mapping[str, list[int]]


class OpenRegion(Region, Protocol):
    """A region together with the directory its metadata lives in."""

    @property
    def metadata_path(self) -> str:
        """Directory of journal and snapshot."""

    def close(self) -> None:
        """Let go of descriptors; no memory is given up."""


def region_is_there(config: InstanceConfig, paths: Paths, received: ReceivedFds | None = None) -> bool:
    """Whether the memory of this instance still exists."""
    _require_known(config)
    return tmpfs.is_there(paths.region)


def create_region(config: InstanceConfig, paths: Paths) -> None:
    """Make the memory of a new instance.

    Raises OutOfMemoryError or UnsupportedError; then nothing is left behind.
    """
    _require_known(config)
    tmpfs.create(paths.region, config.size_bytes, config.numa_node)


def open_region(config: InstanceConfig, paths: Paths, received: ReceivedFds | None = None) -> OpenRegion:
    """Attach to memory that is there. Raises OSError when it is not."""
    _require_known(config)
    return tmpfs.TmpfsRegion(paths.region, config.size_bytes, config.block_bytes, config.numa_node)


def destroy_region(config: InstanceConfig, paths: Paths) -> None:
    """Give the memory back, for good. Doing it twice is harmless."""
    _require_known(config)
    tmpfs.destroy(paths.region)


def _require_known(config: InstanceConfig) -> None:
    if config.kind != "tmpfs":
        raise UnsupportedError(f"region kind {config.kind} is not available yet", hint="use --region tmpfs")
