"""The host's pool of 2M pages: made larger for a while, and back again.

How many pages were added stands in a file of the run's directory meanwhile, so that they can also be given
back when the run was killed. Called by rig.Bench and by cleanup.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from guestmemfs_fuse.core.errors import OutOfMemoryError
from guestmemfs_fuse.linux import hugepages

HUGE_PAGE_BYTES = 2 << 20

_NOTE = "huge-pages-added"
_ATTEMPTS = 3
"""The kernel may need several while it moves pages together."""


@contextlib.contextmanager
def larger(pages: int, directory: Path) -> Iterator[None]:
    """Have that many pages available. directory: the run's, for the note.

    Gives back what was added, instead of setting what was there: others may change the pool meanwhile.
    Raises OutOfMemoryError when the kernel does not find that many.
    """
    before = _pool().total
    wanted = before + max(0, pages - _pool().available)
    added = 0
    try:
        for _ in range(_ATTEMPTS):
            if before + added < wanted:
                added = max(0, hugepages.set_pool(HUGE_PAGE_BYTES, wanted) - before)
                (directory / _NOTE).write_text(str(added))
        found = _pool().available
        if found < pages:
            raise OutOfMemoryError(f"the kernel found {found} of {pages} huge pages for hugetlbfs")
        yield
    finally:
        _give_back(added, directory)


def give_back(directory: Path) -> None:
    """Take out of the pool what the run of `directory` has added and not given back, if anything."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        _give_back(int((directory / _NOTE).read_text()), directory)


def _give_back(added: int, directory: Path) -> None:
    # The note goes first: what is given back twice would be other people's.
    (directory / _NOTE).unlink(missing_ok=True)
    if added:
        hugepages.set_pool(HUGE_PAGE_BYTES, max(0, _pool().total - added))


def _pool() -> hugepages.Pool:
    for pool in hugepages.read_pools():
        if pool.page_bytes == HUGE_PAGE_BYTES:
            return pool
    raise OutOfMemoryError("this host has no pool of 2M pages")
