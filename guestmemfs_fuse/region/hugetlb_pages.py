"""The pages behind a region file on hugetlbfs: given back, brought in, zeroed.

Every page is reserved for the region (min_size), so bringing one in fails only for want of one on the right
NUMA node. Invariant: nothing is mapped and no byte is touched by us, so no poisoned page can kill us.

Called by region/hugetlb.py, in any thread.
"""

from __future__ import annotations

import errno
from typing import Final

from guestmemfs_fuse.core.errors import InterruptedFsError, RegionFullError
from guestmemfs_fuse.linux import memory
from guestmemfs_fuse.region.base import Stop

PIECE_BYTES: Final = 256 << 20
"""How much is brought in at a time, between looks whether the caller gave up."""


class RegionPages:
    """The region file by offsets. numa_node: where pages that are brought in must come from, or None."""

    def __init__(self, fd: int, page_bytes: int, numa_node: int | None) -> None:
        self._fd = fd
        self._page_bytes = page_bytes
        self.numa_node = numa_node

    def punch(self, start: int, length_bytes: int) -> None:
        """Make bytes read as zero: whole pages go back to the pool, parts of pages are zeroed by the kernel.

        Source: hugetlbfs_punch_hole(), fs/hugetlbfs/inode.c, Linux >= 5.19.
        """
        mode = memory.FALLOC_FL_PUNCH_HOLE | memory.FALLOC_FL_KEEP_SIZE
        memory.fallocate(self._fd, mode, start, length_bytes)

    def bring_in(self, start: int, length_bytes: int, stop: Stop) -> None:
        """Allocate what is missing in a range of pages, now, on the node; what is there stays as it is.

        Raises RegionFullError when the node has no page left, InterruptedFsError; what was brought in by then
        stays.
        """
        step = max(PIECE_BYTES, self._page_bytes)
        with memory.allocating_on(self.numa_node):
            for at in range(start, start + length_bytes, step):
                if stop():
                    raise InterruptedFsError("the caller gave up")
                try:
                    memory.fallocate(self._fd, 0, at, min(step, start + length_bytes - at))
                except OSError as error:
                    if error.errno not in (errno.ENOSPC, errno.ENOMEM):
                        raise
                    raise RegionFullError(f"node {self.numa_node} has no huge page left") from error
