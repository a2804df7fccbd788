"""An instance without a daemon, read by ourselves: metadata, and the region where it can be attached.

Read-only. A memfd region cannot be attached (its descriptors are the holder's), so what would have to be
measured there is None. Imports core and region, so commands import this only when they need it.
Called by status, map, destroy and vm list.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from guestmemfs_fuse.core.state import Inode, State
from guestmemfs_fuse.core.types import round_up
from guestmemfs_fuse.engine import listing, report
from guestmemfs_fuse.handover.fdstore import Notifier
from guestmemfs_fuse.linux.users import Dev
from guestmemfs_fuse.metadata import store
from guestmemfs_fuse.metadata.files import DirectoryFiles
from guestmemfs_fuse.metadata.instance import Instance
from guestmemfs_fuse.region import choose, hugetlb_figures
from guestmemfs_fuse.region.base import OpenRegion


@dataclass(frozen=True, slots=True)
class Offline:
    """The last acknowledged state, with its region or without."""

    state: State
    region: OpenRegion | None


@contextmanager
def opened(instance: Instance) -> Iterator[Offline]:
    """Read the metadata and open the region. Raises MetadataError, OSError.

    The region does not get the state (OpenRegion.attach): it would act on it, and a daemon may start and
    change things at any moment.
    """
    config, paths = instance.config, instance.paths
    state = _state(instance)
    if config.kind == "memfd":
        yield Offline(state, None)
        return
    region = choose.open_region(config, paths, {}, Notifier(None))
    try:
        yield Offline(state, region)
    finally:
        region.close()


def devices(instance: Instance) -> list[Dev]:
    """The superblocks through which processes may still use files. Raises MetadataError, OSError."""
    with opened(instance) as offline:
        return report.devices_of(offline.state, served=False)


def saved_guests(instance: Instance) -> list[tuple[str, str]]:
    """The files in which guests wait to be restored (`vm save`), and the state that each is marked with.

    Raises MetadataError, OSError.
    """
    listed = listing.listing(_state(instance))
    return [(path, os.fsdecode(inode.mark)) for path, inode in listed if inode.mark]


def whole_report(offline: Offline) -> dict[str, Any]:
    """What the daemon would say of region and files (control/handlers)."""
    state, region = offline.state, offline.region
    listed = listing.listing(state)
    if region is None:
        used_bytes = sum(round_up(inode.size_bytes, state.block_bytes) for _path, inode in listed)
        rows = [_unmeasured(path, inode) for path, inode in listed]
        huge = {"bytes": None, "fraction": None}
        return {"region": _figures("memfd", state, used_bytes), "huge": huge, "files": rows}
    rows = report.files(listed, report.devices_of(state, served=False), region)
    figures = report.region_figures(state, region) if state.free is None else _accounted(region.kind, state)
    return {"region": figures, "huge": report.huge_figures(rows), "files": rows}


def _accounted(kind: str, state: State) -> dict[str, Any]:
    """A region whose blocks are all in the metadata."""
    assert state.free is not None
    figures = _figures(kind, state, state.region_bytes - state.free.free_blocks * state.block_bytes)
    return {**figures, "hugetlb": hugetlb_figures.figures(state.free, state.block_bytes)}


def _figures(kind: str, state: State, used_bytes: int) -> dict[str, Any]:
    return {
        "kind": kind,
        "size_bytes": state.region_bytes,
        "block_bytes": state.block_bytes,
        "used_bytes": used_bytes,
        "free_bytes": max(0, state.region_bytes - used_bytes),
    }


def _unmeasured(path: str, inode: Inode) -> dict[str, Any]:
    measured = ("allocated_bytes", "huge_bytes", "huge_fraction", "open_count")
    return {**report.known(path, inode), **dict.fromkeys(measured), "mapped_by": [], "poisoned": []}


def _state(instance: Instance) -> State:
    files = DirectoryFiles(choose.metadata_path(instance.config, instance.paths))
    try:
        return store.read_only_view(files, UUID(instance.config.uuid_hex)).state
    finally:
        files.close()
