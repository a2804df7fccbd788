"""A store's whole life as one function, so that it can be interrupted at every step.

Every kind of change to the directory happens in it: create, append, rotate, fold, open, close. It keeps
count of what was acknowledged, so that a test can say what must be there afterwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from guestmemfs_fuse.core import evolve
from guestmemfs_fuse.core.errors import FsError, MetadataError
from guestmemfs_fuse.core.state import State
from guestmemfs_fuse.metadata import store
from guestmemfs_fuse.metadata.store import OF_THE_CONNECTION, Durability, Store
from tests.unit.metadata.memory_files import MemoryFiles
from tests.unit.metadata.workload import REGION, dump_of, fresh_state, history

LENGTH = 24
DONE, DUMPS = history(23, LENGTH + 8)


@dataclass
class Life:
    """One run. acknowledged: how many of the history's transactions `append` returned from; attempted: how
    many it was called with; created: whether `create` returned; refusals: what raised."""

    files: MemoryFiles
    durability: Durability = Durability.KILL
    acknowledged: int = 0
    attempted: int = 0
    created: bool = False
    refusals: int = 0

    def run(self) -> None:
        """From nothing to a closed store with LENGTH transactions; errors of appends are taken as answers."""
        state = fresh_state()
        current = Store.create(self.files, REGION, state, durability=self.durability)
        self.created = True
        self._append(current, state, 6)
        self._fold(current)
        self._append(current, state, 10)
        current = self._reopened(current, state, close_with_state=False)
        self._append(current, state, 14)
        with self._refusable():
            current.rotate()
        self._append(current, state, 18)
        current = self._reopened(current, state, close_with_state=True)
        self._append(current, state, LENGTH)
        self._fold(current)
        current.close(state)

    def _append(self, current: Store, state: State, end: int) -> None:
        for _ in range(3 * end):
            if self.acknowledged == end:
                return
            transaction = DONE[self.acknowledged]
            self.attempted = self.acknowledged + 1
            with self._refusable():
                current.append(transaction)
                evolve.apply(state, transaction)
                self.acknowledged += 1

    def _fold(self, current: Store) -> None:
        with self._refusable():
            current.rotate()
        with self._refusable():
            current.compact_sealed()

    def _reopened(self, current: Store, state: State, *, close_with_state: bool) -> Store:
        """The next daemon; when it cannot open (a fault), the one after it tries."""
        current.close(state if close_with_state else None)
        for _ in range(20):
            with self._refusable():
                opened = Store.open(self.files, REGION, durability=self.durability)
                assert dump_of(opened.state) == dump_of(state)
                return opened.store
        raise AssertionError("no daemon could open the store")

    @contextmanager
    def _refusable(self) -> Iterator[None]:
        try:
            yield
        except (FsError, MetadataError, OSError) as refusal:
            self.refusals += 1
            if isinstance(refusal, MetadataError):
                raise

    def check_survivors_of_power(self, files: MemoryFiles) -> None:
        """As check_survivors; what the kernel's end makes void may be missing at the end."""
        while self.durability is Durability.POWER and self.acknowledged and self._is_void(self.acknowledged):
            self.acknowledged -= 1
        self.check_survivors(files)

    @staticmethod
    def _is_void(sequence: int) -> bool:
        return OF_THE_CONNECTION.issuperset(map(type, DONE[sequence - 1].records))

    def check_survivors(self, files: MemoryFiles) -> None:
        """The next process finds everything acknowledged, nothing half, and can go on."""
        if not store.exists(files):
            assert not self.created
            Store.create(files, REGION, fresh_state()).close()
        opened = Store.open(files, REGION)
        count = opened.store.sequence
        assert self.acknowledged <= count <= max(self.attempted, self.acknowledged)
        assert dump_of(opened.state) == DUMPS[count]
        opened.store.append(DONE[count])
        opened.store.rotate()
        opened.store.compact_sealed()
        opened.store.append(DONE[count + 1])
        again = Store.open(files, REGION)
        assert dump_of(again.state) == DUMPS[count + 2]
        assert again.report.remarks == ()
        assert not [name for name in files.names() if name.endswith(".tmp")]


def step_count(durability: Durability) -> int:
    """How many steps an undisturbed life takes."""
    files = MemoryFiles()
    life = Life(files, durability)
    life.run()
    assert (life.acknowledged, life.refusals) == (LENGTH, 0)
    return files.steps
