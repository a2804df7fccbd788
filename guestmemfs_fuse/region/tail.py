"""What lies between a file's end and the end of its last block: kept allocated, huge, and zero.

A file's size is kept to the byte, its memory is whole blocks, and a huge mapping reaches all of the last
one. The kernel treats shmem's end differently (mm/shmem.c, mm/truncate.c, measured on 6.18): cutting a huge
page splits it for good and frees what is behind the end, and bytes a program stored behind the end are
there when the file grows over them.

Called by region/backing_files when a backing file's size changes.
"""

from __future__ import annotations

import errno
import logging
import os
from typing import Final

from guestmemfs_fuse.core.types import round_down, round_up
from guestmemfs_fuse.linux import memory

log = logging.getLogger(__name__)

_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_PIECE_BYTES: Final = 2 << 20
_PATIENCE_S: Final = 0.016
"""For pages that others have just now (1, 2, 4, 8 ms): it is the event loop that waits, so everybody does."""


def clear(fd: int, old_size_bytes: int, new_size_bytes: int, block_bytes: int) -> None:
    """After growth: make the part of the old last block that now belongs to the file read as zero."""
    end = min(new_size_bytes, round_up(old_size_bytes, block_bytes))
    at = old_size_bytes
    while at < end and (found := _next_data(fd, at)) is not None and found < end:
        at = max(at, found)
        piece_end = min(end, round_down(at, _PIECE_BYTES) + _PIECE_BYTES)
        _zero(fd, at, piece_end)
        at = piece_end


def mend(fd: int, size_bytes: int, block_bytes: int) -> None:
    """After a cut inside a block: give the block its memory back, and its huge page where it has data.

    What fails is left as it is (and logged): the file has all the memory its size needs.
    """
    start = round_down(size_bytes, block_bytes)
    end = start + block_bytes
    if start == size_bytes:
        return
    try:
        found = _next_data(fd, start)
        if found is not None and found < size_bytes:
            _collapse(fd, start, end)
        else:
            memory.fallocate(fd, memory.FALLOC_FL_PUNCH_HOLE | memory.FALLOC_FL_KEEP_SIZE, start, end - start)
        memory.fallocate(fd, memory.FALLOC_FL_KEEP_SIZE, start, end - start)
    except OSError as error:
        log.warning("the last block of a file that was cut has only part of its memory: %s", error)


def _next_data(fd: int, offset_bytes: int) -> int | None:
    try:
        return os.lseek(fd, offset_bytes, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
    return None


def _zero(fd: int, start: int, end: int) -> None:
    """By write(2): memory that was lost to errors gives EIO then, where a store would kill us by SIGBUS."""
    lost_bytes = 0
    while start < end:
        try:
            start += os.pwrite(fd, bytes(end - start), start)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            next_page = round_down(start, _PAGE_BYTES) + _PAGE_BYTES
            lost_bytes += next_page - start
            start = next_page
    if lost_bytes:
        log.warning("%d bytes behind the end of a file were lost to memory errors", lost_bytes)


def _collapse(fd: int, start: int, end: int) -> None:
    """One huge page again, for each 2M of the block. Only where there is data: see linux/collapse."""
    from guestmemfs_fuse.linux.collapse import Patience, collapse

    patience = Patience(_PATIENCE_S)
    with memory.Mapping(fd, end - start, offset_bytes=start) as mapping:
        for at in range(0, end - start, _PIECE_BYTES):
            try:
                collapse(mapping, at, _PIECE_BYTES, patience)
            except OSError as error:
                log.debug("not collapsed: %s", error)
