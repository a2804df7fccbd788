"""The disk is full, or fails, at every single step of a store's life: answers, never surprises."""

from __future__ import annotations

import errno

import pytest

from guestmemfs_fuse.core.errors import FsError
from guestmemfs_fuse.metadata.store import Durability
from tests.unit.metadata.life import LENGTH, Life, step_count
from tests.unit.metadata.memory_files import MemoryFiles, When, fail_at

ERRORS = [errno.ENOSPC, errno.EIO, errno.EROFS]


def lived(files: MemoryFiles, durability: Durability) -> Life:
    """Live as far as it goes; only creating may be refused for good."""
    life = Life(files, durability)
    try:
        life.run()
    except FsError:
        assert not life.created
    return life


@pytest.mark.parametrize("durability", [Durability.KILL, Durability.POWER])
@pytest.mark.parametrize("code", ERRORS)
@pytest.mark.parametrize("when", [When.BEFORE, When.HALFWAY])
def test_one_fault_at_any_step_is_an_answer_and_life_goes_on(
    when: When, code: int, durability: Durability
) -> None:
    for number in range(1, step_count(durability) + 1):
        files = MemoryFiles(fault=fail_at(range(number, number + 1), when, code))
        life = lived(files, durability)
        assert life.acknowledged == LENGTH or not life.created or life.refusals > LENGTH
        files.fault = lambda step, at: None
        life.check_survivors(files.reborn())


@pytest.mark.parametrize("code", ERRORS)
@pytest.mark.parametrize("length", [2, 3, 7])
def test_several_faults_in_a_row_also_when_taking_back(code: int, length: int) -> None:
    """A write that fails, and the cut behind it too: the store goes read-only, and a new daemon cures it."""
    for number in range(1, step_count(Durability.POWER) + 1):
        files = MemoryFiles(fault=fail_at(range(number, number + length), When.HALFWAY, code))
        first = files.fault
        before = fail_at(range(number + 1, number + length), When.BEFORE, code)
        files.fault = lambda step, at, first=first, before=before: (first(step, at), before(step, at))[0]
        life = lived(files, Durability.POWER)
        files.fault = lambda step, at: None
        life.check_survivors(files.reborn())


def test_a_disk_that_stays_full_refuses_every_append_and_keeps_what_was_there() -> None:
    files = MemoryFiles()
    life = Life(files)
    from_step = step_count(Durability.KILL) // 2
    files.fault = fail_at(range(from_step, 100_000), When.HALFWAY, errno.ENOSPC, "write")
    life.run()
    assert 0 < life.acknowledged < LENGTH
    files.fault = lambda step, at: None
    life.check_survivors(files.reborn())
