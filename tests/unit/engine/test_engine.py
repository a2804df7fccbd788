"""The engine: order of journal and effect, dedupe of resent requests, orphans, freeze, interruption."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass

import pytest
import trio

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.check import problems
from guestmemfs_fuse.core.errors import (
    BusyFsError,
    EntryExistsError,
    InterruptedFsError,
    MetadataWriteError,
    RegionFullError,
    UnsupportedModeError,
)
from guestmemfs_fuse.core.state import Inode
from guestmemfs_fuse.core.types import ROOT_INO, Ino
from guestmemfs_fuse.engine import recovery
from guestmemfs_fuse.engine.memory import KEEP_SIZE, PUNCH_HOLE
from tests.unit.engine.fakes import BLOCK, Bench, forget


@dataclass(frozen=True)
class Asked:
    unique: int
    resent: bool = False
    pid: int = 0


def make_file(bench: Bench, name: bytes = b"ram", origin: Asked | None = None) -> Ino:
    return bench.engine.make(cmd.Make(ROOT_INO, name, stat.S_IFREG | 0o600, 0, 0), origin)


def test_a_change_the_journal_refuses_did_not_happen() -> None:
    bench = Bench()
    bench.journal.failing = True
    with pytest.raises(MetadataWriteError):
        make_file(bench)
    assert bench.engine.state.root.directory is not None
    assert bench.engine.state.root.directory.get(b"ram") is None
    assert list(problems(bench.engine.state)) == []


def test_the_number_of_a_create_that_failed_is_given_out_again_with_an_empty_backing() -> None:
    bench = Bench()
    bench.journal.failing = True
    with pytest.raises(MetadataWriteError):
        make_file(bench)
    bench.region.sizes[Ino(2)] = 999
    bench.journal.failing = False
    assert make_file(bench) == 2
    assert bench.region.sizes[Ino(2)] == 0


def test_a_resent_create_is_answered_with_the_inode_it_made() -> None:
    bench = Bench()
    first = make_file(bench, origin=Asked(70))
    assert make_file(bench, origin=Asked(70, resent=True)) == first
    assert len(bench.journal.transactions) == 1


def test_a_create_that_was_not_done_before_is_refused_although_it_is_resent() -> None:
    bench = Bench()
    make_file(bench, origin=Asked(70))
    with pytest.raises(EntryExistsError):
        make_file(bench, origin=Asked(71, resent=True))


def test_a_resent_resize_runs_once() -> None:
    bench = Bench()
    ino = make_file(bench)
    trio.run(bench.engine.memory.resize, ino, BLOCK, Asked(5))
    done = len(bench.journal.transactions)
    trio.run(bench.engine.memory.resize, ino, BLOCK, Asked(5, resent=True))
    assert len(bench.journal.transactions) == done


def test_growing_takes_whole_blocks_and_keeps_the_size_to_the_byte() -> None:
    bench = Bench()
    ino = make_file(bench)
    trio.run(bench.engine.memory.resize, ino, BLOCK + 1)
    assert bench.region.memory[ino] == 2 * BLOCK
    assert bench.region.sizes[ino] == BLOCK + 1


def test_a_full_region_leaves_the_file_as_it_was() -> None:
    bench = Bench(region_blocks=2)
    ino = make_file(bench)
    with pytest.raises(RegionFullError):
        trio.run(bench.engine.memory.resize, ino, 3 * BLOCK)
    assert bench.region.memory[ino] == 0
    assert bench.engine.state.inodes[ino].size_bytes == 0


def test_a_grow_the_journal_refuses_gives_its_memory_back() -> None:
    bench = Bench()
    ino = make_file(bench)
    bench.journal.failing = True
    with pytest.raises(MetadataWriteError):
        trio.run(bench.engine.memory.resize, ino, 4 * BLOCK)
    assert bench.region.memory[ino] == 0


def test_room_that_an_unused_orphan_holds_is_found_before_enospc() -> None:
    bench = Bench(region_blocks=2)
    old = make_file(bench, b"old")
    trio.run(bench.engine.memory.resize, old, 2 * BLOCK)
    bench.engine.change(cmd.Unlink(ROOT_INO, b"old"))
    new = make_file(bench, b"new")
    trio.run(bench.engine.memory.resize, new, 2 * BLOCK)
    assert old not in bench.engine.state.inodes


def test_an_orphan_stays_while_the_kernel_holds_it() -> None:
    bench = Bench()
    ino = make_file(bench)
    bench.engine.backings.ensure(ino)
    bench.kernel.held.add(ino)
    bench.engine.change(cmd.Unlink(ROOT_INO, b"ram"))
    forget(bench.engine, ino)
    assert ino in bench.engine.state.inodes
    bench.kernel.held.clear()
    forget(bench.engine, ino)
    assert ino not in bench.engine.state.inodes
    assert bench.kernel.open_ids == set()
    assert ino not in bench.region.sizes


def test_regression_a_nameless_file_is_not_reaped_before_the_kernel_has_it() -> None:
    bench = Bench()
    ino = bench.engine.make(cmd.Make(ROOT_INO, b"", stat.S_IFREG | 0o600, 0, 0))
    bench.engine.orphans.expected(ino)
    assert bench.engine.orphans.sweep() == 0
    forget(bench.engine, ino)
    assert ino not in bench.engine.state.inodes


def test_regression_an_orphan_whose_memory_cannot_be_given_up_does_not_keep_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error of its backing file (read-only now, or immutable) failed every status and statfs, too."""
    bench = Bench()
    stuck, other = make_file(bench, b"stuck"), make_file(bench, b"other")
    for name in (b"stuck", b"other"):
        bench.engine.change(cmd.Unlink(ROOT_INO, name))
    discard = bench.region.discard

    def refuse(inode: Inode) -> None:
        if inode.ino == stuck:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        discard(inode)

    monkeypatch.setattr(bench.region, "discard", refuse)
    forget(bench.engine, stuck, other)
    assert bench.engine.state.orphans == {stuck}
    assert bench.engine.orphans.sweep() == 0


def test_regression_a_cache_that_is_dropped_at_once_does_not_stop_the_loop() -> None:
    """65,000 inodes come in one message: giving their backing ids back took seconds, and callers waited."""
    bench = Bench()
    inos = [make_file(bench, b"%d" % number) for number in range(1000)]
    for ino in inos:
        bench.engine.backings.ensure(ino)

    async def run() -> None:
        turns = 0
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.engine.orphans.run)
            bench.engine.orphans.forgotten(inos)
            assert bench.engine.orphans.behind
            while bench.kernel.open_ids:
                turns += 1
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
        assert turns > 5
        assert not bench.engine.orphans.behind

    trio.run(run)


def test_one_backing_id_per_inode_until_the_kernel_forgets_it() -> None:
    bench = Bench()
    ino = make_file(bench)
    assert bench.engine.backings.ensure(ino) == bench.engine.backings.ensure(ino)
    forget(bench.engine, ino)
    assert bench.engine.backings.of(ino) is None
    assert ino in bench.engine.state.inodes


def test_regression_a_create_that_fails_leaves_no_file_behind() -> None:
    """Its backing id was journaled behind it: without room for that the caller got ENOSPC, and EEXIST when it
    tried again."""
    bench = Bench()
    create = cmd.Make(ROOT_INO, b"ram", stat.S_IFREG | 0o600, 0, 0)
    bench.journal.failing = True
    with pytest.raises(MetadataWriteError):
        bench.engine.make(create, opened=True)
    assert bench.engine.state.root.directory is not None
    assert bench.engine.state.root.directory.get(b"ram") is None
    assert bench.kernel.open_ids == set()
    bench.journal.failing = False
    ino = bench.engine.make(create, opened=True)
    assert len(bench.journal.transactions) == 1
    assert bench.kernel.open_ids == {bench.engine.backings.of(ino)}


def test_a_backing_id_that_cannot_be_journaled_is_given_back() -> None:
    bench = Bench()
    ino = make_file(bench)
    bench.journal.failing = True
    with pytest.raises(MetadataWriteError):
        bench.engine.backings.ensure(ino)
    assert bench.kernel.open_ids == set()


def test_fallocate_keep_size_reserves_beyond_the_end() -> None:
    bench = Bench()
    ino = make_file(bench)
    trio.run(bench.engine.memory.fallocate, ino, KEEP_SIZE, 0, 2 * BLOCK)
    assert (bench.region.memory[ino], bench.region.sizes[ino]) == (2 * BLOCK, 0)


def test_fallocate_modes_we_do_not_have_are_refused() -> None:
    bench = Bench()
    ino = make_file(bench)
    with pytest.raises(UnsupportedModeError):
        trio.run(bench.engine.memory.fallocate, ino, PUNCH_HOLE, 0, BLOCK)
    with pytest.raises(UnsupportedModeError):
        trio.run(bench.engine.memory.fallocate, ino, 0x10, 0, BLOCK)


def test_a_pinned_file_is_neither_punched_nor_shrunk() -> None:
    bench = Bench()
    ino = make_file(bench)
    trio.run(bench.engine.memory.resize, ino, 2 * BLOCK)
    bench.engine.change(cmd.Pin(ino, True))
    with pytest.raises(BusyFsError):
        trio.run(bench.engine.memory.fallocate, ino, PUNCH_HOLE | KEEP_SIZE, 0, BLOCK)
    with pytest.raises(BusyFsError):
        trio.run(bench.engine.memory.resize, ino, BLOCK)
    assert bench.region.memory[ino] == 2 * BLOCK


def test_an_interrupted_allocation_changes_nothing() -> None:
    bench = Bench()
    ino = make_file(bench)
    bench.region.on_fill = lambda: bench.engine.memory.interrupt(9)
    with pytest.raises(InterruptedFsError):
        trio.run(bench.engine.memory.resize, ino, BLOCK, Asked(9))
    assert (bench.region.memory[ino], bench.region.sizes[ino]) == (0, 0)


def test_freeze_waits_for_an_allocation_and_then_refuses_everything() -> None:
    bench = Bench(region_blocks=1 << 20)
    ino = make_file(bench)
    big = 64 << 20  # more than is done inline: it runs in a thread
    frozen_at: list[int] = []

    async def freeze() -> None:
        await bench.engine.freeze()
        frozen_at.append(bench.engine.state.inodes[ino].size_bytes)

    async def both() -> None:
        started = trio.Event()
        token = trio.lowlevel.current_trio_token()
        bench.region.on_fill = lambda: token.run_sync_soon(started.set)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.engine.memory.resize, ino, big)
            await started.wait()
            nursery.start_soon(freeze)

    trio.run(both)
    assert frozen_at == [big]
    with pytest.raises(BusyFsError):
        make_file(bench, b"more")
    with pytest.raises(BusyFsError):
        trio.run(bench.engine.memory.resize, ino, 0)
    bench.engine.thaw()
    make_file(bench, b"more")


def test_a_frozen_instance_reaps_orphans_only_after_thaw() -> None:
    bench = Bench()
    ino = make_file(bench)
    bench.engine.change(cmd.Unlink(ROOT_INO, b"ram"))
    trio.run(bench.engine.freeze)
    forget(bench.engine, ino)
    assert ino in bench.engine.state.inodes
    bench.engine.thaw()
    assert ino not in bench.engine.state.inodes


def test_settling_the_tail_brings_a_backing_to_what_the_journal_says() -> None:
    bench = Bench()
    ino = make_file(bench, origin=Asked(1))
    trio.run(bench.engine.memory.resize, ino, 3 * BLOCK, Asked(2))
    bench.region.sizes[ino] = BLOCK  # died between journal and ftruncate
    assert recovery.settle_tail(bench.engine.state, bench.region) == 1
    assert bench.region.sizes[ino] == 3 * BLOCK


def test_the_sweep_gives_back_what_an_interrupted_allocation_left() -> None:
    bench = Bench()
    ino = make_file(bench)
    bench.region.memory[ino] = 5 * BLOCK
    trio.run(bench.engine.sweep)
    assert bench.region.memory[ino] == 0


def test_the_sweep_removes_backings_nobody_was_told_about_and_no_others() -> None:
    bench = Bench()
    make_file(bench)
    empty, full = Ino(50), Ino(1)
    bench.region.create(empty)
    bench.region.create(full)
    bench.region.memory[full] = BLOCK
    trio.run(bench.engine.sweep)
    assert empty not in bench.region.sizes
    assert full in bench.region.sizes


def test_a_saved_guest_opens_only_for_its_restore() -> None:
    bench = Bench()
    ino = make_file(bench)
    assert not bench.engine.may_open_saved(ino)
    bench.engine.allow_restore(ino, True)
    assert bench.engine.may_open_saved(ino)
    bench.engine.allow_restore(ino, False)
    assert not bench.engine.may_open_saved(ino)
