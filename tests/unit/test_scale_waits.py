"""scripts/scale_waits.py shows the least of the longest waits, and goes on when an act fails."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from guestmemfs_fuse.bench.rig import CommandFailedError
from tests.unit.script import loaded


class FakeBench:
    """Every round somebody waited a millisecond less."""

    def __init__(self) -> None:
        self.longest_ns = 20e6

    @contextmanager
    def watching(self, path: Path) -> Iterator[dict[str, float]]:
        found: dict[str, float] = {}
        yield found
        self.longest_ns -= 1e6
        found.update(longest_ns=self.longest_ns, p99_ns=self.longest_ns / 10)


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return loaded("scale_waits", monkeypatch)


def test_a_line_has_the_least_and_the_median_of_the_rounds(
    script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[None] = []
    script.waits(FakeBench(), Path("/watched"), {"act": lambda: calls.append(None)})
    assert len(calls) == script.ROUNDS == 5
    assert capsys.readouterr().out == "| act | 15.0 ms | 17.0 ms | 1.50 ms |\n"


def test_an_act_that_fails_is_said_and_the_others_are_still_measured(
    script: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise CommandFailedError("guestmemfs fsck: no")

    script.waits(FakeBench(), Path("/watched"), {"bad": fail, "good": lambda: None})
    bad, good = capsys.readouterr().out.splitlines()
    assert bad == "| bad | failed: guestmemfs fsck: no | | |"
    assert good.startswith("| good | ")
