"""Folding the journal beside live traffic."""

from __future__ import annotations

import gc
import stat
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
import trio

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.state import new_state
from guestmemfs_fuse.core.types import ROOT_INO
from guestmemfs_fuse.engine.ledger import Ledger
from guestmemfs_fuse.engine.storage import Storage
from guestmemfs_fuse.metadata.files import DirectoryFiles
from guestmemfs_fuse.metadata.store import COMPACT_MIN_BYTES, Store
from guestmemfs_fuse.region.named_files import NamedBackingFiles
from guestmemfs_fuse.region.tmpfs import TmpfsRegion

BLOCK = 2 << 20
REGION = UUID(int=7)


class Bench:
    """A storage whose folding is done here instead of in another process."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        region: NamedBackingFiles = TmpfsRegion(str(directory), 1 << 30, BLOCK)
        files = DirectoryFiles(region.metadata_path)
        state = new_state(region_bytes=1 << 30, block_bytes=BLOCK, now_ns=1)
        self.store = Store.create(files, REGION, state)
        self.storage = Storage(region, files, self.store, state, REGION)
        self.ledger = Ledger(state, self.store)
        self.ledger.on_commit = self.storage.note_commit

        async def here() -> None:
            self.store.compact_sealed()

        monkeypatch.setattr(self.storage, "_compact", here)

    def make_until_due(self) -> None:
        while not self.store.compaction_due:
            name = b"%d" % self.ledger.state.next_ino
            self.ledger.commit(cmd.Make(ROOT_INO, name, stat.S_IFLNK | 0o777, 0, 0, target=b"x" * 4000))

    def fold(self) -> None:
        async def run() -> None:
            folds = self.store.statistics().compactions
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.storage.compact_when_due)
                with trio.fail_after(20):
                    while self.store.statistics().compactions == folds:
                        await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()

        trio.run(run)


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    made = Bench(tmp_path, monkeypatch)
    yield made
    made.storage.close()
    gc.unfreeze()


def test_a_long_journal_is_folded(bench: Bench) -> None:
    bench.make_until_due()
    assert bench.store.journal_bytes >= COMPACT_MIN_BYTES
    bench.fold()
    assert bench.store.journal_bytes < COMPACT_MIN_BYTES


def test_inodes_that_came_since_are_no_work_for_the_collector_which_callers_would_wait_for(
    bench: Bench,
) -> None:
    """A full collection looked at each inode: 30 ms for 100,000."""
    bench.make_until_due()
    inodes = len(bench.ledger.state.inodes)
    bench.fold()
    assert gc.get_freeze_count() >= inodes
    frozen = gc.get_freeze_count()
    for number in range(200):
        bench.ledger.commit(cmd.SetXattr(ROOT_INO, b"user.%d" % (number % 10), b"x" * 6000))
    while not bench.store.compaction_due:
        bench.ledger.commit(cmd.SetXattr(ROOT_INO, b"user.0", b"x" * 6000))
    bench.fold()
    assert gc.get_freeze_count() <= frozen, "nothing has grown: what is no garbage stays where it is"
