"""fsck by the daemon itself: nothing is reported that is not so, repairs are journaled, traffic goes on."""

from __future__ import annotations

import stat
from functools import partial

import trio
import trio.testing

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core import evolve, image
from guestmemfs_fuse.core.check import problems
from guestmemfs_fuse.core.state import State, new_state
from guestmemfs_fuse.core.types import ROOT_INO, Ino
from guestmemfs_fuse.engine import fsck, fsck_online
from guestmemfs_fuse.engine.engine import Engine
from guestmemfs_fuse.engine.fsck import Result
from tests.unit.engine.fakes import BLOCK, Bench, forget
from tests.unit.engine.fsck_rig import StrictRegion, lookup


def bench() -> Bench:
    """An engine on a region that says what is missing; its sweep is done."""
    made = Bench()
    made.region = StrictRegion(64 * BLOCK)
    state = new_state(region_bytes=64 * BLOCK, block_bytes=BLOCK, now_ns=1)
    made.engine = Engine(state, made.journal, made.region, made.kernel)
    made.engine.swept.set()
    return made


def make(bench: Bench, name: bytes, blocks: int = 1) -> Ino:
    ino = bench.engine.make(cmd.Make(ROOT_INO, name, stat.S_IFREG | 0o600, 0, 0))
    trio.run(bench.engine.memory.resize, ino, blocks * BLOCK)
    return ino


def check(bench: Bench, *, repair: bool = False) -> Result:
    return trio.run(partial(fsck_online.check, bench.engine, repair=repair))


def replayed(bench: Bench) -> State:
    """What another daemon would make of the journal."""
    state = new_state(region_bytes=64 * BLOCK, block_bytes=BLOCK, now_ns=1)
    for transaction in bench.journal.transactions:
        evolve.apply(state, transaction)
    return state


def test_a_whole_instance_is_clean() -> None:
    there = bench()
    make(there, b"a")
    assert check(there).clean
    assert check(there).checked.backings == 1


def test_what_is_wrong_with_backings_is_found_and_put_right() -> None:
    there = bench()
    a, b, c = make(there, b"a"), make(there, b"b"), make(there, b"c")
    there.region.sizes[a] = 0
    there.region.memory[b] = 9 * BLOCK
    there.region.discard(there.engine.state.inodes[c])
    there.region.create(Ino(70))
    assert [finding.kind for finding in check(there).findings] == [
        "backing-size",
        "backing-memory",
        "missing-backing",
        "empty-stray",
    ]
    result = check(there, repair=True)
    assert result.unrepaired == ()
    assert check(there).clean
    assert tuple(image.dump(replayed(there))) == tuple(image.dump(there.engine.state))


def test_memory_without_a_file_is_adopted_by_journaled_changes() -> None:
    there = bench()
    make(there, b"a")
    assert isinstance(there.region, StrictRegion)
    there.region.plant(70, BLOCK + 1, 2 * BLOCK)
    result = check(there, repair=True)
    assert [(finding.kind, finding.repaired) for finding in result.findings] == [("stray-backing", True)]
    state = there.engine.state
    assert lookup(state, b"lost+found", b"#70") == 70
    assert state.inodes[Ino(70)].size_bytes == BLOCK + 1
    assert state.next_ino == 71
    assert list(problems(state)) == []
    assert tuple(image.dump(replayed(there))) == tuple(image.dump(state))


def test_regression_memory_that_vanishes_before_it_is_adopted_does_not_fail_the_check() -> None:
    there = bench()
    make(there, b"a")
    assert isinstance(there.region, StrictRegion)
    for number in (70, 71):
        there.region.plant(number, BLOCK, BLOCK)

    def take_away(parent: Ino, name: bytes) -> None:
        """When the first was adopted, the second goes."""
        there.region.discard(fsck.stray(Ino(71)))

    there.kernel.invalidate_entry = take_away  # type: ignore[method-assign]
    result = check(there, repair=True)
    assert [(finding.ino, finding.repaired) for finding in result.findings] == [(70, True), (71, True)]
    assert lookup(there.engine.state, b"lost+found", b"#71") is None
    assert tuple(image.dump(replayed(there))) == tuple(image.dump(there.engine.state))


def test_a_wrong_link_count_is_set_right_and_stays_so_after_replay() -> None:
    there = bench()
    a = make(there, b"a")
    there.engine.state.inodes[a].nlink = 3
    assert check(there, repair=True).unrepaired == ()
    assert there.engine.state.inodes[a].nlink == 1


def test_what_cannot_be_mended_while_serving_is_left_and_said() -> None:
    there = bench()
    make(there, b"a")
    there.engine.state.next_ino = Ino(1)
    result = check(there, repair=True)
    assert {finding.kind for finding in result.unrepaired} == {"number-reused"}
    assert "umount" in result.notes[0]


def test_a_file_the_kernel_may_still_map_is_not_begun_anew() -> None:
    there = bench()
    a = make(there, b"a")
    there.engine.backings.ensure(a)
    there.region.discard(there.engine.state.inodes[a])
    result = check(there, repair=True)
    assert [finding.kind for finding in result.unrepaired] == ["missing-backing"]
    assert there.engine.state.inodes[a].size_bytes == BLOCK


def test_a_frozen_instance_is_checked_but_not_changed() -> None:
    there = bench()
    a = make(there, b"a")
    trio.run(there.engine.freeze)
    there.region.sizes[a] = 0
    done = len(there.journal.transactions)
    result = check(there, repair=True)
    assert [finding.kind for finding in result.unrepaired] == ["backing-size"]
    assert "frozen" in result.notes[0]
    assert len(there.journal.transactions) == done
    assert there.region.sizes[a] == 0


def test_files_that_come_and_go_meanwhile_are_no_problems() -> None:
    """The region is compared in a thread; everything it could misread happens right then."""
    there = bench()
    victims = [make(there, b"v%d" % number) for number in range(20)]
    engine, region = there.engine, there.region
    tokens: list[trio.lowlevel.TrioToken] = []

    def meddle() -> None:
        for number, ino in enumerate(victims):
            engine.change(cmd.Unlink(ROOT_INO, b"v%d" % number))
            forget(engine, ino)
            engine.make(cmd.Make(ROOT_INO, b"n%d" % number, stat.S_IFREG | 0o600, 0, 0))

    real = region.inventory

    def inventory():  # type: ignore[no-untyped-def]
        if tokens:
            trio.from_thread.run_sync(meddle, trio_token=tokens.pop())
        return real()

    region.inventory = inventory  # type: ignore[method-assign]

    async def run() -> Result:
        tokens.append(trio.lowlevel.current_trio_token())
        return await fsck_online.check(engine, repair=False)

    assert trio.run(run).clean
    assert not tokens, "the test did meddle"


def test_the_copy_is_of_one_moment_although_changes_never_stop() -> None:
    there = bench()
    for number in range(5000):
        there.engine.change(cmd.Make(ROOT_INO, b"d%d" % number, stat.S_IFDIR | 0o700, 0, 0))

    async def busy() -> None:
        number = 0
        while True:
            number += 1
            there.engine.change(
                cmd.Rename(ROOT_INO, b"d%d" % (number - 1), ROOT_INO, b"d%d" % (number + 4999))
            )
            await trio.lowlevel.checkpoint()

    async def run() -> Result:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(busy)
            result = await fsck_online.check(there.engine, repair=False)
            nursery.cancel_scope.cancel()
        return result

    assert trio.run(run).clean


def test_it_waits_for_the_sweep_after_a_crash() -> None:
    there = bench()
    a = make(there, b"a")
    there.engine.swept = trio.Event()
    there.region.memory[a] = 9 * BLOCK

    async def run() -> Result:
        async with trio.open_nursery() as nursery:
            results: list[Result] = []

            async def look() -> None:
                results.append(await fsck_online.check(there.engine, repair=False))

            nursery.start_soon(look)
            await trio.testing.wait_all_tasks_blocked()
            assert results == []
            await there.engine.sweep()
        return results[0]

    assert trio.run(run).clean


def test_regression_attributes_set_while_it_looks_are_no_wrong_usage() -> None:
    """The copy shared them with the live inode: they were counted as they were later, or changed under it."""
    bench = Bench()
    ino = bench.engine.make(cmd.Make(ROOT_INO, b"f", 0o100600, 0, 0))
    bench.engine.change(cmd.SetXattr(ino, b"user.a", b"1"))
    twin = fsck_online._copy_of(bench.engine.state.inodes[ino])
    bench.engine.change(cmd.SetXattr(ino, b"user.b", b"22"))
    assert twin.xattrs == {b"user.a": b"1"}
