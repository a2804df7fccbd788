"""The region as a whole: which parts of it belong to which file, for `map TARGET` to draw.

Where files are extents of one region file, that is where they are. Where every file has a backing of its
own there is no place in the region to show: `offset_bytes` of an extent is then within its file.

Called by control/handlers.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from guestmemfs_fuse.core.state import State
from guestmemfs_fuse.core.types import Extent
from guestmemfs_fuse.engine import report
from guestmemfs_fuse.engine.listing import Listing
from guestmemfs_fuse.region.base import Region


def space(state: State, region: Region) -> dict[str, Any]:
    """The region's figures, and what of it is free or withheld. Reads the state: only where it cannot change.

    With `files` these are the keys of the JSON contract of `map TARGET`.
    """
    return {
        "region": report.region_figures(state, region),
        "free": _ranges(state.free.free_extents(), state) if state.free is not None else None,
        "poisoned": _ranges(state.quarantined, state),
    }


def files(listed: Listing, region: Region) -> Iterator[dict[str, Any]]:
    """Every file's extents. Blocks: asks for each file."""
    for path, inode in listed:
        yield {
            "path": path,
            "ino": inode.ino,
            "size_bytes": inode.size_bytes,
            "pinned": inode.pinned,
            "saved_guest": os.fsdecode(inode.mark) or None,
            "extents": [asdict(extent) for extent in region.extents(inode)],
        }


def _ranges(extents: tuple[Extent, ...], state: State) -> list[dict[str, int]]:
    block = state.block_bytes
    return [
        {"region_offset_bytes": extent.start * block, "length_bytes": extent.count * block}
        for extent in extents
    ]
