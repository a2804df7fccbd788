"""An instance without a daemon, read by ourselves: metadata, and the region where it can be attached.

Read-only. A memfd region cannot be attached (its descriptors are the holder's), so what would have to be
measured there is None. Imports core and region, so commands import this only when they need it.
Called by status, map and destroy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from guestmemfs_fuse.core.state import State
from guestmemfs_fuse.core.types import round_up
from guestmemfs_fuse.engine import report
from guestmemfs_fuse.handover.fdstore import Notifier
from guestmemfs_fuse.linux.users import Dev
from guestmemfs_fuse.metadata import store
from guestmemfs_fuse.metadata.files import DirectoryFiles
from guestmemfs_fuse.metadata.instance import Instance
from guestmemfs_fuse.region import choose
from guestmemfs_fuse.region.choose import OpenRegion


@dataclass(frozen=True, slots=True)
class Offline:
    """The last acknowledged state, with its region or without."""

    state: State
    region: OpenRegion | None


@contextmanager
def opened(instance: Instance) -> Iterator[Offline]:
    """Read the metadata and attach the region. Raises MetadataError, OSError."""
    if instance.config.kind == "memfd":
        yield Offline(_state(instance, instance.paths.metadata), None)
        return
    region = choose.open_region(instance.config, instance.paths, {}, Notifier(None))
    try:
        yield Offline(_state(instance, region.metadata_path), region)
    finally:
        region.close()


def devices(instance: Instance) -> list[Dev]:
    """The superblocks through which processes may still use files. Raises MetadataError, OSError."""
    with opened(instance) as offline:
        return report.devices_of(offline.state, served=False)


def whole_report(offline: Offline) -> dict[str, Any]:
    """What the daemon would say of region and files (control/handlers)."""
    state, region = offline.state, offline.region
    listed = report.listing(state)
    if region is None:
        size_bytes = sum(round_up(inode.size_bytes, state.block_bytes) for _path, inode in listed)
        figures = {
            "kind": "memfd",
            "size_bytes": state.region_bytes,
            "block_bytes": state.block_bytes,
            "used_bytes": size_bytes,
            "free_bytes": max(0, state.region_bytes - size_bytes),
        }
        rows = [_unmeasured(path, inode.ino, inode.size_bytes, inode.pinned) for path, inode in listed]
        return {"region": figures, "huge": {"bytes": None, "fraction": None}, "files": rows}
    rows = report.files(listed, report.devices_of(state, served=False), region)
    return {
        "region": report.region_figures(state, region),
        "huge": report.huge_figures(rows),
        "files": rows,
    }


def _unmeasured(path: str, ino: int, size_bytes: int, pinned: bool) -> dict[str, Any]:
    measured = ("allocated_bytes", "huge_bytes", "huge_fraction", "open_count")
    row: dict[str, Any] = {"path": path, "ino": ino, "size_bytes": size_bytes, "pinned": pinned}
    return {**row, **dict.fromkeys(measured), "mapped_by": []}


def _state(instance: Instance, metadata_path: str) -> State:
    files = DirectoryFiles(metadata_path)
    try:
        return store.read_only_view(files, UUID(instance.config.uuid_hex)).state
    finally:
        files.close()
