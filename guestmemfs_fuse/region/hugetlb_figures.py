"""What `status` says of a hugetlb region beyond its use: the pool behind it, HVO, fragmentation.

Reads sysfs when asked. Called by engine/report and cli/offline.
"""

from __future__ import annotations

from typing import Any

from guestmemfs_fuse.core.extents import FreeMap
from guestmemfs_fuse.linux import hugepages


def figures(free: FreeMap, page_bytes: int) -> dict[str, Any]:
    """The documented `region.hugetlb` object; `pool` is the host's, in pages, None when it is not there."""
    pool = next((each for each in hugepages.read_pools() if each.page_bytes == page_bytes), None)
    return {
        "page_bytes": page_bytes,
        "pool": None
        if pool is None
        else {
            "total": pool.total,
            "free": pool.free,
            "reserved": pool.reserved,
            "surplus": pool.surplus,
        },
        "hvo": hugepages.optimizes_vmemmap(),
        "fragmentation": round(free.fragmentation, 4),
        "largest_run_bytes": free.largest_run_blocks * page_bytes,
        "quarantined_bytes": len(free.quarantined) * page_bytes,
    }
