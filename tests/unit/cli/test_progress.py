"""Bars: on a terminal after a moment, elsewhere not a byte and not a thread."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result

from guestmemfs_fuse.cli import mounting, progress
from guestmemfs_fuse.linux.hugepages import Pool
from guestmemfs_fuse.metadata.instance import Instance
from guestmemfs_fuse.region import hugetlb_pool
from tests.unit.cli.fakes import FakeDaemon, a_config

MIB = 1 << 20


class Terminal(io.StringIO):
    """What is shown to somebody."""

    def isatty(self) -> bool:
        return True

    def wait_for(self, text: str) -> None:
        """Bars are drawn by a thread, some ten times a second."""
        deadline_s = time.monotonic() + 30
        while text not in self.getvalue():
            assert time.monotonic() < deadline_s, self.getvalue()
            time.sleep(0.01)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    shown = Terminal()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=shown))  # pytest has a hand on the real one
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    return shown


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "AFTER_S", 0.0)
    monkeypatch.setattr(progress, "_LOOK_S", 0.001)


def test_a_bar_shows_bytes_as_they_come(terminal: Terminal, at_once: None) -> None:
    with progress.bar("allocating", "bytes") as tick:
        tick(64 * MIB, 256 * MIB)
        terminal.wait_for("64.0/256.0 MiB")
    assert "allocating" in terminal.getvalue()


def test_a_bar_counts(terminal: Terminal, at_once: None) -> None:
    with progress.bar("checking") as tick:
        tick(3, 10)
        terminal.wait_for("3/10")


def test_what_is_done_in_a_moment_shows_nothing(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "AFTER_S", 1e9)
    with progress.bar("checking") as tick:
        tick(10, 10)
    assert "checking" not in terminal.getvalue()


def test_work_that_cannot_tell_is_looked_at(terminal: Terminal, at_once: None) -> None:
    with progress.watched("reserving", lambda: (2 * MIB, 8 * MIB), "bytes"):
        terminal.wait_for("2.0/8.0 MiB")
    assert "reserving" in terminal.getvalue()
    assert progress.LOOKER not in [thread.name for thread in threading.enumerate()]


def test_an_error_ends_the_bar_and_passes(terminal: Terminal, at_once: None) -> None:
    with pytest.raises(ValueError, match="no"), progress.watched("reserving", lambda: (0, 0)):
        raise ValueError("no")


def test_without_a_terminal_nothing_is_shown_nor_asked(
    capsys: pytest.CaptureFixture[str], at_once: None
) -> None:
    threads = set(threading.enumerate())  # idle ones of other tests may end at any time
    with progress.bar("checking") as tick, progress.watched("reserving", lambda: pytest.fail("asked")):
        tick(1, 2)
        assert set(threading.enumerate()) <= threads
    assert capsys.readouterr() == ("", "")


def test_events_that_are_not_understood_are_passed_over() -> None:
    told: list[tuple[int, int]] = []
    hear = progress.on_event(lambda done, total: told.append((done, total)))
    for values in ({"done": 1, "total": 2}, {}, {"done": "x", "total": 2}, {"phase": "later"}):
        hear(values)
    assert told == [(1, 2)]


@pytest.mark.parametrize(
    ("words", "op"),
    [
        (("resize-file", "/mnt/guests/vm", "--size", "1G"), "resize_file"),
        (("resize", "guests", "--size", "1G"), "resize"),
    ],
)
def test_commands_say_nothing_more_where_no_terminal_is(
    run: Callable[..., Result],
    make_instance: Callable[..., Instance],
    daemon: FakeDaemon,
    at_once: None,
    words: tuple[str, ...],
    op: str,
) -> None:
    make_instance()
    answer: dict[str, Any] = {"size_bytes": 1, "old_bytes": 1, "new_bytes": 1}
    daemon.serves()
    daemon.answers[op] = answer
    assert run(*words).stderr == ""


def test_a_pool_that_grows_is_measured_from_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    pools = (Pool(2 * MIB, None, total, 0, 0, 0, 0) for total in (10, 13, 18))
    monkeypatch.setattr(hugetlb_pool, "pool_of", lambda page_bytes, node: next(pools))
    monkeypatch.setattr(hugetlb_pool, "missing_pages", lambda *asked: 8)
    measure = mounting._pool_growth(a_config(kind="hugetlb", size_bytes=16 * MIB))
    assert [measure(), measure()] == [(6 * MIB, 16 * MIB), (16 * MIB, 16 * MIB)]
