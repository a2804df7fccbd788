"""A store and a history to put into it, for the tests of the store."""

from __future__ import annotations

from guestmemfs_fuse.metadata.store import Durability, Opened, Store
from tests.unit.metadata.memory_files import MemoryFiles
from tests.unit.metadata.workload import REGION, dump_of, fresh_state, history

DONE, DUMPS = history(11, 60)
ANY = range(1, 10_000)


def created(files: MemoryFiles, durability: Durability = Durability.KILL) -> Store:
    return Store.create(files, REGION, fresh_state(), durability=durability)


def append(to: Store, start: int, end: int) -> None:
    """Store the history's transactions start..end; transaction n gets sequence n + 1."""
    for number in range(start, end):
        assert to.append(DONE[number]) == number + 1


def opened(files: MemoryFiles) -> Opened:
    return Store.open(files, REGION)


def check(files: MemoryFiles, count: int) -> Opened:
    """What a new process finds is the history's first `count` transactions."""
    again = Store.open(files.reborn(), REGION)
    assert dump_of(again.state) == DUMPS[count]
    assert again.store.sequence == count
    return again
