"""The fuzz targets on seeds, damaged seeds and arbitrary bytes, for a moment (minutes: `make fuzz`)."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.seeds import seeds
from tests.fuzz.targets import TARGETS

NAMES = sorted(TARGETS)


@pytest.mark.parametrize("name", NAMES)
def test_seeds_are_taken(name: str) -> None:
    found = list(seeds(name))
    assert len(found) > 4
    for seed in found:
        TARGETS[name](seed)


@pytest.mark.parametrize("name", NAMES)
def test_damaged_seeds_are_survived(name: str) -> None:
    dice, all_seeds = random.Random(name), list(seeds(name))
    for _ in range(120):
        data = bytearray(dice.choice(all_seeds))
        for _ in range(dice.randrange(1, 6)):
            at = dice.randrange(len(data) + 1)
            match dice.randrange(4):
                case 0:
                    data[at:at] = dice.randbytes(dice.randrange(1, 9))
                case 1:
                    del data[at : at + dice.randrange(1, 30)]
                case 2 if at < len(data):
                    data[at] = dice.choice((0, 0xFF, 0x7F, 0x80, dice.randrange(256)))
                case _:
                    other = dice.choice(all_seeds)
                    data[at:at] = other[: dice.randrange(60)]
        TARGETS[name](bytes(data))


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.binary(max_size=400))
def test_arbitrary_bytes_are_survived(name: str, data: bytes) -> None:
    TARGETS[name](data)
