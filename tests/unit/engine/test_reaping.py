"""What the kernel has forgotten goes together: in which order, in one transaction, and not behind anybody."""

from __future__ import annotations

import stat

import pytest
import trio
import trio.testing

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core import records as rec
from guestmemfs_fuse.core.errors import RegionFullError, UserLimitError
from guestmemfs_fuse.core.records import Transaction
from guestmemfs_fuse.core.state import Inode
from guestmemfs_fuse.core.types import ROOT_INO, BackingId, Ino, UserLimits
from guestmemfs_fuse.region.base import Filled, Stop
from tests.unit.engine.fakes import BLOCK, Bench, forget

USER = 1000


def make(bench: Bench, name: bytes, uid: int = 0) -> Ino:
    return bench.engine.make(cmd.Make(ROOT_INO, name, stat.S_IFREG | 0o600, uid, 0), opened=True)


def removed(bench: Bench, name: bytes = b"old", blocks: int = 0) -> Ino:
    """A file that was open, has memory and lost its name."""
    ino = make(bench, name)
    trio.run(bench.engine.memory.resize, ino, blocks * BLOCK)
    bench.engine.change(cmd.Unlink(ROOT_INO, name))
    return ino


def test_what_is_forgotten_together_is_one_transaction() -> None:
    bench = Bench()
    orphans = [removed(bench, b"%d" % number) for number in range(5)]
    named = make(bench, b"kept")
    before = len(bench.journal.transactions)
    forget(bench.engine, *orphans, named)
    (transaction,) = bench.journal.transactions[before:]
    assert set(transaction.records) == {*map(rec.Reaped, orphans), rec.BackingClosed(named)}
    assert list(bench.engine.state.inodes) == [ROOT_INO, named]
    assert bench.kernel.open_ids == set()
    assert bench.engine.orphans.reaped == 5


def test_regression_what_is_forgotten_twice_in_a_moment_goes_once() -> None:
    """Forgotten, looked up again, removed and forgotten: two Reaped records of one inode ended the daemon,
    and the next one could not read the journal."""
    bench = Bench()
    ino, named = removed(bench), make(bench, b"kept")
    before = len(bench.journal.transactions)
    forget(bench.engine, ino, named, ino, named)
    (transaction,) = bench.journal.transactions[before:]
    assert sorted(transaction.records, key=str) == [rec.BackingClosed(named), rec.Reaped(ino)]
    assert bench.engine.orphans.reaped == 1


def test_memory_goes_first_then_the_record_then_the_backing_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crash leaves an orphan, or an id the next daemon gives back: never lost memory or a dead id."""
    bench = Bench()
    ino = removed(bench)
    seen: list[str] = []
    discard, append, close = bench.region.discard, bench.journal.append, bench.kernel.backing_close

    def discarded(inode: Inode) -> None:
        seen.append("memory")
        discard(inode)

    def appended(transaction: Transaction) -> int:
        seen.append("journal")
        return append(transaction)

    def closed(backing_id: BackingId) -> None:
        seen.append("id")
        close(backing_id)

    monkeypatch.setattr(bench.region, "discard", discarded)
    monkeypatch.setattr(bench.journal, "append", appended)
    monkeypatch.setattr(bench.kernel, "backing_close", closed)
    monkeypatch.setattr(bench.region.freeing, "begin", lambda: seen.append("free"))
    forget(bench.engine, ino)
    # Freed beside the loop, once it is nobody else's: else the loop would free it when it closes the id.
    assert seen == ["memory", "journal", "id", "free"]


def test_what_cannot_be_journaled_stays_with_its_backing_id_and_goes_later() -> None:
    bench = Bench()
    ino = removed(bench)
    bench.journal.failing = True
    forget(bench.engine, ino)
    assert ino in bench.engine.state.orphans
    assert bench.kernel.open_ids == {bench.engine.backings.of(ino)}
    bench.journal.failing = False
    assert bench.engine.orphans.sweep() == 1
    assert bench.kernel.open_ids == set()


def test_a_backing_id_the_kernel_does_not_take_back_does_not_stop_anything(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench()
    inos = [removed(bench, b"%d" % number) for number in range(2)]

    def refuse(backing_id: BackingId) -> None:
        raise OSError(5, "no")

    monkeypatch.setattr(bench.kernel, "backing_close", refuse)
    forget(bench.engine, *inos)
    assert not bench.engine.state.orphans
    assert len(caplog.records) == 2


def test_nobody_waits_for_what_was_forgotten() -> None:
    bench = Bench()
    inos = [removed(bench, b"%d" % number) for number in range(3)]
    before = len(bench.journal.transactions)
    clock = trio.testing.MockClock()

    async def scenario() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.engine.orphans.run)
            for ino in inos:
                bench.engine.orphans.forgotten([ino])
                await trio.testing.wait_all_tasks_blocked()
            assert bench.engine.state.orphans == set(inos)
            clock.jump(0.01)
            await trio.testing.wait_all_tasks_blocked()
            assert not bench.engine.state.orphans
            nursery.cancel_scope.cancel()

    trio.run(scenario, clock=clock)
    assert len(bench.journal.transactions) == before + 1


def test_a_users_limit_does_not_count_what_was_forgotten() -> None:
    bench = Bench()
    bench.engine.state.limits = UserLimits(max_files=1)
    ino = make(bench, b"old", USER)
    bench.engine.change(cmd.Unlink(ROOT_INO, b"old"))
    bench.kernel.held.add(ino)
    with pytest.raises(UserLimitError):
        make(bench, b"new", USER)
    bench.kernel.held.clear()
    bench.engine.orphans.forgotten([ino])
    make(bench, b"new", USER)


def test_a_chown_does_not_count_what_was_forgotten_either() -> None:
    bench = Bench()
    bench.engine.state.limits = UserLimits(max_files=1)
    old, given = make(bench, b"old", USER), make(bench, b"given")
    bench.engine.change(cmd.Unlink(ROOT_INO, b"old"))
    bench.engine.orphans.forgotten([old])
    bench.engine.change(cmd.SetAttrs(given, uid=USER))
    assert old not in bench.engine.state.inodes


def test_a_region_that_takes_no_more_files_takes_one_for_each_that_was_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A memfd region has a descriptor for each file, and the store takes only so many."""
    bench = Bench()
    old = removed(bench)
    create = bench.region.create

    def only_one(ino: Ino) -> None:
        if bench.region.sizes:
            raise RegionFullError()
        create(ino)

    monkeypatch.setattr(bench.region, "create", only_one)
    with pytest.raises(RegionFullError):
        make(bench, b"new")
    bench.engine.orphans.forgotten([old])
    make(bench, b"new")


def test_room_that_comes_back_while_an_allocation_fails_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asked for what it could reap, the engine found nothing left to reap, and the caller got ENOSPC."""
    bench = Bench(region_blocks=2)
    old = removed(bench, blocks=2)
    new = make(bench, b"new")
    fill = bench.region.fill

    def late(inode: Inode, offset_bytes: int, end_bytes: int, stop: Stop) -> Filled:
        try:
            return fill(inode, offset_bytes, end_bytes, stop)
        finally:
            forget(bench.engine, old)  # as run() would meanwhile, when this is a thread

    monkeypatch.setattr(bench.region, "fill", late)
    trio.run(bench.engine.memory.resize, new, 2 * BLOCK)
    assert bench.region.sizes[new] == 2 * BLOCK


def test_a_freeze_lets_go_of_what_was_forgotten_before() -> None:
    bench = Bench()
    inos = [removed(bench, b"%d" % number) for number in range(100)]
    bench.engine.orphans.forgotten(inos)
    trio.run(bench.engine.freeze)
    assert not bench.engine.state.orphans
    assert isinstance(bench.journal.transactions[-1].records[0], rec.FrozenState)


def test_a_frozen_instance_gives_backing_ids_back() -> None:
    bench = Bench()
    ino = removed(bench)
    trio.run(bench.engine.freeze)
    forget(bench.engine, ino)
    assert ino in bench.engine.state.orphans
    assert bench.kernel.open_ids == set()


def test_a_successor_finds_no_work_that_could_be_done_in_no_time() -> None:
    bench = Bench()
    bench.engine.orphans.forgotten([removed(bench)])

    async def rest() -> None:
        await bench.engine.come_to_rest(interrupt=False)

    trio.run(rest)
    assert not bench.engine.orphans.behind
    assert not bench.engine.state.orphans


def test_regression_looking_at_many_orphans_stops_nobody() -> None:
    """Each statfs asked the kernel of all of them in one go: 22 ms for 10,000 removed files that are open."""
    bench = Bench()
    held = [removed(bench, b"%d" % number) for number in range(1_000)]
    bench.kernel.held.update(held)
    turns = 0

    async def run() -> None:
        async def meanwhile() -> None:
            nonlocal turns
            while True:
                turns += 1
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(meanwhile)
            assert await bench.engine.orphans.reap() == 0
            nursery.cancel_scope.cancel()

    trio.run(run)
    assert turns >= 3
    bench.kernel.held.difference_update(held[::2])
    assert trio.run(bench.engine.orphans.reap) == 500
    assert set(held[1::2]) == bench.engine.state.orphans
