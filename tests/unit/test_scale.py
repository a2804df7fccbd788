"""scripts/scale.py measures what it says: run small, every part gives figures, and no cost grows with it."""

from __future__ import annotations

from types import ModuleType

import pytest

from tests.unit.script import loaded

SMALL = {
    "FILES": 2_000,
    "STEPS": (600, 2_000),
    "GUESTS": 50,
    "CHURN": 200,
    "REGION_BYTES": 160 << 30,
    "PROBES": 500,
}


@pytest.fixture
def scale(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = loaded("scale", monkeypatch)
    for name, value in SMALL.items():
        monkeypatch.setattr(module, name, value)
    return module


@pytest.mark.parametrize(
    "part", ["files_in_one_directory", "snapshots", "guests_on_extents", "worst_free_map"]
)
def test_every_part_gives_its_figures(scale: ModuleType, part: str) -> None:
    rows = list(getattr(scale, part)())
    assert rows and all(figure.strip() for row in rows for figure in row.figures)
    assert len({len(row.figures) for row in rows}) == 1


def test_a_change_takes_as_many_journal_bytes_whatever_the_number_of_files(scale: ModuleType) -> None:
    small, large = (int(row.figures[-2]) for row in scale.files_in_one_directory())
    assert small <= large <= small + 8  # the numbers in it get longer, nothing else
