"""Times that people give on the command line, in seconds. Called by the commands' options."""

from __future__ import annotations

import math
from typing import Any

import click

LONGEST_S = 365 * 24 * 3600.0
"""Beyond some centuries the kernel's waiting calls refuse; nobody means more than this."""


class Seconds(click.FloatRange):
    """For click's `type=`: a number from `least_s` to a year. `nan`, which is in no range, is none."""

    def __init__(self, least_s: float) -> None:
        super().__init__(least_s, LONGEST_S)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number. Raises click.BadParameter."""
        number = float(super().convert(value, param, ctx))
        if math.isnan(number):
            self.fail(f"{value!r} is not a number of seconds.", param, ctx)
        return number
