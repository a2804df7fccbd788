"""The process dies, or the power goes, at every single step of a store's life."""

from __future__ import annotations

import random
from contextlib import suppress

import pytest

from guestmemfs_fuse.metadata.store import Durability
from tests.unit.metadata.life import Life, step_count
from tests.unit.metadata.memory_files import Crash, MemoryFiles, When, crash_at


def crashed(number: int, when: When, durability: Durability) -> Life:
    life = Life(MemoryFiles(fault=crash_at(number, when)), durability)
    with suppress(Crash):
        life.run()
    return life


@pytest.mark.parametrize("durability", Durability)
@pytest.mark.parametrize("when", When)
def test_a_sigkill_at_any_step_loses_nothing_acknowledged(when: When, durability: Durability) -> None:
    crashes = 0
    for number in range(1, step_count(durability) + 1):
        life = crashed(number, when, durability)
        crashes += life.files.dead
        life.check_survivors(life.files.reborn())
    assert crashes > 20


@pytest.mark.parametrize("seed", range(6))
def test_a_power_cut_at_any_step_loses_nothing_acknowledged(seed: int) -> None:
    """Seed 0: everything unsynced is lost; seed 1: nothing is; others: any mixture."""
    dice = random.Random(seed)
    keep = [lambda: False, lambda: True][seed] if seed < 2 else lambda: dice.random() < 0.5
    for number in range(1, step_count(Durability.POWER) + 1):
        for when in (When.BEFORE, When.AFTER):
            life = crashed(number, when, Durability.POWER)
            life.check_survivors_of_power(life.files.after_power_cut(keep))


def test_without_syncs_a_power_cut_would_be_noticed() -> None:
    """The test above can fail: the same cut loses changes when nothing was synced."""
    life = Life(MemoryFiles(), Durability.KILL)
    life.run()
    life.files.fault = lambda step, when: None
    lost = life.files.after_power_cut(lambda: False)
    with pytest.raises(AssertionError):
        life.acknowledged += 1
        life.check_survivors(lost)
