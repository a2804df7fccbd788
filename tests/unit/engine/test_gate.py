"""The gate: freeze and multi-step changes, in every order they can meet."""

from __future__ import annotations

import os
import stat
import time
from dataclasses import dataclass

import pytest
import trio
import trio.testing

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.errors import BusyFsError, InterruptedFsError, MetadataWriteError
from guestmemfs_fuse.core.state import Inode
from guestmemfs_fuse.core.types import ROOT_INO, Ino
from guestmemfs_fuse.engine import recovery
from guestmemfs_fuse.engine.gate import Gate
from guestmemfs_fuse.region.base import Region
from tests.unit.engine.fakes import BLOCK, Bench, forget


@dataclass(frozen=True)
class Asked:
    unique: int
    resent: bool = False
    pid: int = 0


async def hold(gate: Gate, ino: int, until: trio.Event) -> None:
    async with gate.exclusive(Ino(ino)):
        await until.wait()


async def closed(gate: Gate, order: list[str], name: str) -> None:
    await gate.close()
    order.append(name)


def test_regression_two_freezes_at_once_both_return() -> None:
    """The second replaced the event the first waited for."""

    async def run() -> list[str]:
        gate, done, order = Gate(), trio.Event(), list[str]()
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(hold, gate, 1, done)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(closed, gate, order, "first")
                nursery.start_soon(closed, gate, order, "second")
                await trio.testing.wait_all_tasks_blocked()
                assert order == []
                done.set()
        return sorted(order)

    assert trio.run(run) == ["first", "second"]


def test_the_gate_stays_closed_until_everybody_opened_it() -> None:
    async def run() -> None:
        gate = Gate()
        await gate.close()
        await gate.close()
        gate.open()
        with pytest.raises(BusyFsError):
            await hold(gate, 1, trio.Event())
        gate.open()
        done = trio.Event()
        done.set()
        await hold(gate, 1, done)

    trio.run(run)


def test_changes_of_one_inode_wait_for_each_other_and_those_of_others_do_not() -> None:
    async def run() -> None:
        gate, first, second = Gate(), trio.Event(), trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold, gate, 1, first)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(hold, gate, 1, second)
            await trio.testing.wait_all_tasks_blocked()
            second.set()
            done = trio.Event()
            done.set()
            await hold(gate, 2, done)
            assert gate.under_way == 2
            first.set()
        assert gate.under_way == 0

    trio.run(run)


def test_a_freeze_that_cannot_be_journaled_leaves_the_gate_open() -> None:
    bench = Bench()
    bench.journal.failing = True
    with pytest.raises(MetadataWriteError):
        trio.run(bench.engine.freeze)
    bench.journal.failing = False
    ino = bench.engine.make(cmd.Make(ROOT_INO, b"f", stat.S_IFREG | 0o600, 0, 0))
    trio.run(bench.engine.memory.resize, ino, BLOCK)


def test_regression_a_freeze_during_the_sweep_does_not_end_the_daemon() -> None:
    """The sweep met the closed gate, and its BusyFsError left the task it ran in."""
    bench = Bench()
    ino = bench.engine.make(cmd.Make(ROOT_INO, b"f", stat.S_IFREG | 0o600, 0, 0))
    bench.region.memory[ino] = 3 * BLOCK

    async def run() -> None:
        gate = bench.engine.gate
        await gate.close()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.engine.sweep)
            await trio.testing.wait_all_tasks_blocked(0.05)
            gate.open()

    trio.run(run)
    assert bench.engine.swept.is_set()
    assert bench.region.memory[ino] == 0


def test_regression_a_crash_while_reaping_leaves_no_memory_that_belongs_to_nobody() -> None:
    """Reaped in the journal, its memory still there: only fsck could have found that."""
    bench = Bench()
    ino = bench.engine.make(cmd.Make(ROOT_INO, b"f", stat.S_IFREG | 0o600, 0, 0))
    bench.engine.change(cmd.Unlink(ROOT_INO, b"f"))
    seen: list[bool] = []
    append = bench.journal.append

    def journal(transaction: object) -> int:
        seen.append(ino in bench.region.sizes)
        return append(transaction)  # type: ignore[arg-type]

    bench.journal.append = journal  # type: ignore[method-assign]
    forget(bench.engine, ino)
    assert seen == [False]
    assert ino not in bench.engine.state.inodes


def test_regression_memory_of_a_number_never_given_out_is_not_thrown_away() -> None:
    """Whoever loses the newest part of a journal has files whose numbers look as if never given out."""
    bench = Bench()
    unknown = Ino(900)
    bench.region.create(unknown)
    bench.region.memory[unknown] = BLOCK
    assert not recovery.discard_stray(bench.engine.state, bench.region, unknown)
    assert bench.region.memory[unknown] == BLOCK


def test_regression_a_file_made_and_removed_during_the_sweep_does_not_end_the_daemon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The scan lists backings beside live traffic; what it took for a stray was gone, and stat raised."""
    bench, scan = Bench(), recovery.scan

    def scan_beside_traffic(files: list[Inode], region: Region) -> tuple[list[Ino], list[Ino]]:
        ino = bench.engine.make(cmd.Make(ROOT_INO, b"f", stat.S_IFREG | 0o600, 0, 0))
        found = scan(files, region)
        bench.engine.change(cmd.Unlink(ROOT_INO, b"f"))
        forget(bench.engine, ino)
        assert ino in found[1] and ino not in bench.region.sizes
        return found

    monkeypatch.setattr(recovery, "scan", scan_beside_traffic)
    trio.run(bench.engine.sweep)
    assert bench.engine.swept.is_set()


@pytest.mark.parametrize("origin", [None, Asked(8, pid=os.getpid())], ids=["ours", "truncate"])
def test_work_that_is_left_to_a_successor_is_stopped_and_undone_first(origin: Asked | None) -> None:
    """Otherwise a thread of the old daemon would allocate, or take back, what the new one gave a file.

    That a truncate is only interrupted for a caller who dies does not hold here: it is asked again.
    """
    bench = Bench(region_blocks=1 << 20)
    ino = bench.engine.make(cmd.Make(ROOT_INO, b"f", stat.S_IFREG | 0o600, 0, 0))
    big = 64 << 20  # more than is done inline: it runs in a thread
    outcome: list[str] = []

    async def grow() -> None:
        try:
            await bench.engine.memory.resize(ino, big)
        except InterruptedFsError:
            outcome.append("interrupted")

    async def run() -> None:
        token, started = trio.lowlevel.current_trio_token(), trio.Event()

        def filling() -> None:
            token.run_sync_soon(started.set)
            while not bench.engine.memory._leaving:
                time.sleep(0.001)

        bench.region.on_fill = filling
        async with trio.open_nursery() as nursery:
            nursery.start_soon(grow)
            await started.wait()
            await bench.engine.come_to_rest(interrupt=True)
            outcome.append("abandoned")
            assert bench.region.memory[ino] == 0
        with pytest.raises(BusyFsError):
            await bench.engine.memory.resize(ino, big)

    trio.run(run)
    assert sorted(outcome) == ["abandoned", "interrupted"]
    assert len(bench.journal.transactions) == 1
