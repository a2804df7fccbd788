"""scripts/scale_waits.py shows the least of the longest waits, and goes on when an act fails."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest

from guestmemfs_fuse.bench.rig import CommandFailedError

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "scale_waits.py"


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
    spec = importlib.util.spec_from_file_location("scale_waits", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "scale_waits", module)
    spec.loader.exec_module(module)
    return module


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
