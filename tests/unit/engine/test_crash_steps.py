"""Killed, or failing, at every single step of an instance's life: of append, fold, allocation, hand-over.

"Nothing happened" is the measure: the same names, links, sizes, memory and numbers as in a life without
trouble, each request answered once with success.
"""

from __future__ import annotations

import errno
import stat
from functools import cache
from itertools import accumulate

import pytest
import trio

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.errors import FsError, ReadOnlyInstanceError
from guestmemfs_fuse.core.types import ROOT_INO
from guestmemfs_fuse.metadata.store import Durability
from tests.unit.engine.crash_life import SCRIPT, Life
from tests.unit.metadata.memory_files import Step, When, crash_at, fail_at, no_fault

METADATA = ("create", "write", "sync", "rename", "truncate", "unlink", "sync directory")


@cache
def undisturbed(durability: Durability) -> tuple[object, tuple[Step, ...]]:
    """What a life without trouble ends with, and its steps."""
    seen: dict[int, Step] = {}

    def note(step: Step, when: When) -> None:
        seen[step.number] = step

    async def run() -> object:
        life = await Life.begin(note, durability)
        await life.run()
        steps = tuple(seen.values())
        return await life.outcome(), steps

    return trio.run(run)  # type: ignore[return-value]


def test_a_life_without_trouble_takes_every_kind_of_step() -> None:
    calls = {step.call for step in undisturbed(Durability.POWER)[1]}
    memory = {"create backing", "fill", "settle", "punch", "discard", "register", "unregister"}
    assert {"write", "sync", "create", "rename", "unlink", "sync directory"} | memory <= calls


@pytest.mark.parametrize("durability", [Durability.KILL, Durability.POWER])
@pytest.mark.parametrize("when", When)
def test_a_daemon_killed_at_any_step_is_never_noticed(when: When, durability: Durability) -> None:
    expected, steps = undisturbed(durability)
    tried = [
        step.number
        for step in steps
        if (when is not When.HALFWAY or step.call == "write")
        and (durability is Durability.KILL or step.call == "sync")
    ]

    async def run() -> None:
        for number in tried:
            life = await Life.begin(crash_at(number, when), durability)
            await life.run()
            assert life.deaths == 1, number
            assert await life.outcome() == expected, number

    trio.run(run)
    assert tried or when is When.HALFWAY


@pytest.mark.parametrize("distances", [(1,), (2,), (3, 4), (5, 1), (1, 1, 1)])
def test_daemons_killed_again_while_they_start_are_never_noticed(distances: tuple[int, ...]) -> None:
    """The second, third ... death comes that many steps behind the one before."""
    expected, steps = undisturbed(Durability.KILL)

    async def run() -> None:
        for step in steps:
            numbers = list(accumulate((step.number, *distances)))

            def fault(step: Step, when: When, numbers: list[int] = numbers) -> None:
                if step.number in numbers:
                    crash_at(step.number, When.AFTER)(step, when)

            life = await Life.begin(fault)
            await life.run()
            assert await life.outcome() == expected, numbers

    trio.run(run)


@pytest.mark.parametrize(
    ("code", "length", "durability"),
    [
        (errno.ENOSPC, 1, Durability.KILL),
        (errno.EIO, 1, Durability.POWER),
        (errno.EIO, 4, Durability.POWER),
    ],
)
def test_metadata_that_cannot_be_written_is_an_answer_and_memory_and_disk_agree(
    code: int, length: int, durability: Durability
) -> None:
    """One failure, or several in a row (also of taking the failed write back: then it goes read-only)."""
    _, steps = undisturbed(durability)

    async def run() -> int:
        refusals = 0
        for step in steps:
            if step.call not in METADATA:
                continue
            numbers = range(step.number, step.number + length)
            life = await Life.begin(fail_at(numbers, When.BEFORE, code, *METADATA), durability)
            for request in SCRIPT:
                await life.ask_until_granted(request)
            await life.outcome()
            refusals += life.refusals
        return refusals

    assert trio.run(run) > 20


def test_an_instance_that_went_read_only_refuses_changes_goes_on_reading_and_says_so() -> None:
    def write_and_cut_fail(step: Step, when: When) -> None:
        always = range(0, 1 << 30)
        fail_at(always, When.HALFWAY, errno.EIO, "write")(step, when)
        fail_at(always, When.BEFORE, errno.EIO, "truncate")(step, when)

    unlink = cmd.Unlink(ROOT_INO, b"a")

    async def run() -> None:
        life = await Life.begin()
        for request in SCRIPT[:6]:
            await life.ask(request)
        life.files.fault = write_and_cut_fail
        with pytest.raises(FsError):
            life.engine.change(unlink)
        assert life.store.read_only is not None
        assert life.store.statistics().read_only == life.store.read_only
        life.files.fault = no_fault
        with pytest.raises(ReadOnlyInstanceError):
            life.engine.change(unlink)
        assert life.engine.state.inodes[life.ino(b"a")].nlink == 2
        await life.start_anew()
        life.engine.change(unlink)
        await life.outcome()

    trio.run(run)


@pytest.mark.parametrize("half", [True, False], ids=["torn", "whole"])
def test_regression_a_backing_id_in_doubt_is_one_the_kernel_has(half: bool) -> None:
    """The record could be neither written well nor taken back: whichever the next daemon reads, it holds."""

    def fault(step: Step, when: When) -> None:
        fail_at(range(0, 1 << 30), When.HALFWAY if half else When.AFTER, errno.EIO, "write")(step, when)
        fail_at(range(0, 1 << 30), When.BEFORE, errno.EIO, "truncate")(step, when)

    async def run() -> None:
        life = await Life.begin(durability=Durability.POWER)
        await life.ask(SCRIPT[0])
        ino = life.engine.make(cmd.Make(ROOT_INO, b"a", stat.S_IFREG | 0o600, 0, 0))
        life.files.fault = fault
        with pytest.raises(FsError):
            life.engine.backings.ensure(ino)
        assert life.store.read_only is not None
        life.files.fault = no_fault
        await life.start_anew()
        inode = life.engine.state.inodes[ino]
        assert (inode.backing_id is None) == half
        assert life.kernel.open_ids == ({inode.backing_id} - {None})
        assert life.engine.backings.ensure(ino) in life.kernel.open_ids
        await life.outcome()

    trio.run(run)
