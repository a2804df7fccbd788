"""Turn the small pages of a shmem file into huge ones, without the kernel's trap.

The trap (measured, docs/kernel-facts.md): MADV_COLLAPSE over a huge page that fallocate made and
nobody used yet maps it without zeroing it and without marking it as used. Whatever is then written through
that mapping is zeroed away by the next fault of anybody else. So only blocks that hold data are collapsed.

EAGAIN is not the last word: somebody has one of the small pages at this moment (a compaction that was
preempted with it, say) and lets go of it within milliseconds. So `collapse` asks again.

Called after a file came back in small pages (live update) and by region/huge_policy, in a thread, and by
region/tail.
"""

from __future__ import annotations

import errno
import time
from collections.abc import Callable
from typing import Final

from guestmemfs_fuse.linux import coverage, memory

_PMD_BYTES = 2 << 20
_WINDOW_BYTES = 64 << 20
# Busy, no memory, not possible just now: such a block stays as it is.
_NOT_NOW = (errno.EAGAIN, errno.EBUSY, errno.ENOMEM, errno.EINVAL)
_PAUSES_S: Final = tuple(0.001 * 2**number for number in range(8))
PATIENCE_S: Final = 2.0


class Patience:
    """How long may be waited for pages that somebody else has, over all blocks it is used for.

    Pages may be pinned for good, as a device's are: then each block would cost all the pauses.
    """

    def __init__(self, patience_s: float = PATIENCE_S, sleep: Callable[[float], object] = time.sleep) -> None:
        self._left_s = patience_s
        self._sleep = sleep

    def lasts(self, pause_s: float) -> bool:
        """Wait for pause_s seconds, unless it is at its end; whether it was not."""
        if self._left_s < pause_s:
            return False
        self._left_s -= pause_s
        self._sleep(pause_s)
        return True


def collapse(mapping: memory.Mapping, offset_bytes: int, length_bytes: int, patience: Patience) -> None:
    """MADV_COLLAPSE on a part of a mapping, again while the answer is EAGAIN. Raises OSError.

    EAGAIN: madvise_collapse_errno(), mm/khugepaged.c, "trying again might succeed".
    """
    for pause_s in _PAUSES_S:
        try:
            return mapping.advise(memory.MADV_COLLAPSE, offset_bytes, length_bytes)
        except OSError as error:
            if error.errno != errno.EAGAIN or not patience.lasts(pause_s):
                raise
    return mapping.advise(memory.MADV_COLLAPSE, offset_bytes, length_bytes)


def collapse_data(fd: int, size_bytes: int) -> int:
    """Give every whole 2M block that holds data a huge page; holes in such a block are allocated.

    fd: a shmem file, open for reading; size_bytes: how far. Returns how many blocks the kernel collapsed or
    found huge already; the others stay as they are. Raises OSError for anything but such a refusal.
    """
    done, patience = 0, Patience()
    for start, end in _windows(fd, size_bytes):
        with memory.Mapping(fd, end - start, offset_bytes=start) as window:
            for at in range(0, end - start, _PMD_BYTES):
                try:
                    collapse(window, at, _PMD_BYTES, patience)
                except OSError as error:
                    if error.errno not in _NOT_NOW:
                        raise
                else:
                    done += 1
    return done


def _windows(fd: int, size_bytes: int) -> list[coverage.Range]:
    """Block-aligned ranges in which every block holds data, none longer than a window."""
    whole = size_bytes // _PMD_BYTES * _PMD_BYTES
    blocks = sorted(
        {
            at
            for start, end in coverage.data_ranges(fd, whole)
            for at in range(start // _PMD_BYTES * _PMD_BYTES, end, _PMD_BYTES)
        }
    )
    windows: list[coverage.Range] = []
    for at in blocks:
        if windows and windows[-1][1] == at and at - windows[-1][0] < _WINDOW_BYTES:
            windows[-1] = (windows[-1][0], at + _PMD_BYTES)
        else:
            windows.append((at, at + _PMD_BYTES))
    return windows
