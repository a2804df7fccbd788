"""Memory the kernel has taken out of use because of an error (hwpoison), and where in a file it was.

Nothing here can be killed by it: pages are looked at with MADV_POPULATE_READ, which answers EHWPOISON where a
load would be SIGBUS (madvise(2), Linux >= 5.14), and with read(2) of single bytes, which answers EIO
(shmem_file_read_iter(), mm/shmem.c; hugetlbfs_read_iter(), fs/hugetlbfs/inode.c). Both shmem and hugetlbfs
keep a poisoned page where it was until the file gives it up.

Called by engine/poison, in a thread where there is much to look at.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Final

from guestmemfs_fuse.linux import memory

EHWPOISON: Final = 133
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_WINDOW_BYTES: Final = 64 << 20

Range = tuple[int, int]  # [start, end) in bytes


def corrupted_bytes(meminfo_path: str = "/proc/meminfo") -> int:
    """How much memory of this host was taken out of use so far; 0 on kernels that never do that."""
    with open(meminfo_path, "rb", buffering=0) as file:
        raw = file.read(1 << 16)
    at = raw.find(b"HardwareCorrupted:")
    return int(raw[at:].split(None, 2)[1]) * 1024 if at >= 0 else 0


def poisoned_ranges(fd: int, start: int, end: int, step_bytes: int) -> list[Range]:
    """The poisoned pages in a part of a file that has memory, neighbours joined. Raises OSError.

    step_bytes: the largest page there may be; start and end are multiples of it. Holes are filled.
    """
    found: list[Range] = []
    for suspect_start, suspect_end in _suspects(fd, start, end, step_bytes):
        for at in range(suspect_start, suspect_end, _PAGE_BYTES):
            if not _is_readable(fd, at):
                if found and found[-1][1] == at:
                    found[-1] = (found[-1][0], at + _PAGE_BYTES)
                else:
                    found.append((at, at + _PAGE_BYTES))
    return found


def _suspects(fd: int, start: int, end: int, step_bytes: int) -> Iterator[Range]:
    """Ranges of one step each with a poisoned page in them."""
    window = max(_WINDOW_BYTES, step_bytes)
    for at in range(start, end, window):
        stop = min(end, at + window)
        with memory.Mapping(fd, stop - at, offset_bytes=at) as view:
            if _populates(view, 0, stop - at):
                continue
            for inside in range(0, stop - at, step_bytes):
                length = min(step_bytes, stop - at - inside)
                if not _populates(view, inside, length):
                    yield at + inside, at + inside + length


def _populates(view: memory.Mapping, offset_bytes: int, length_bytes: int) -> bool:
    try:
        view.advise(memory.MADV_POPULATE_READ, offset_bytes, length_bytes)
    except OSError as error:
        if error.errno == EHWPOISON:
            return False
        if error.errno not in (errno.EFAULT, errno.ENOMEM):  # cut meanwhile, or behind the end
            raise
    return True


def _is_readable(fd: int, at: int) -> bool:
    try:
        os.pread(fd, 1, at)
    except OSError as error:
        if error.errno not in (errno.EIO, EHWPOISON):
            raise
        return False
    return True
