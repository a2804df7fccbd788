"""Seconds as people write them."""

from __future__ import annotations

import click
import pytest

from guestmemfs_fuse.cli.metrics import metrics
from guestmemfs_fuse.cli.run import run
from guestmemfs_fuse.cli.seconds import Seconds
from guestmemfs_fuse.cli.top import top


@pytest.mark.parametrize(
    ("text", "seconds"), [("0.1", 0.1), ("2", 2.0), ("1e3", 1000.0), ("31536000", 31536000)]
)
def test_numbers_in_range_are_seconds(text: str, seconds: float) -> None:
    assert Seconds(0.1).convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "0.05", "-1", "1e10", "soon", ""])
def test_everything_else_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter):
        Seconds(0.1).convert(text, None, None)


@pytest.mark.parametrize(("command", "option"), [(run, "settle"), (top, "interval"), (metrics, "every")])
def test_regression_no_command_waits_for_what_is_no_time(command: click.Command, option: str) -> None:
    """`run --settle inf` killed the tracer at the first mapping."""
    (found,) = (each for each in command.params if each.name == option)
    assert isinstance(found.type, Seconds)
