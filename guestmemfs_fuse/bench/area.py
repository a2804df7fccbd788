"""Collects what one area found out; tells what is going on meanwhile. Called by the areas."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Unpack

from guestmemfs_fuse.bench.measure import Figures, Samples, interleave
from guestmemfs_fuse.bench.results import Area, Row, RowOptions, Unit, row


class Collector:
    """Rows, notes and what was left out, in the order they came."""

    def __init__(
        self,
        name: str,
        title: str,
        say: Callable[[str], None],
        part_s: float,
        *,
        x_name: str | None = None,
        x_unit: Literal["files", "B"] | None = None,
    ) -> None:
        """part_s: after how long no more rounds of one thing are begun; x_name, x_unit: what rows with an x
        lie along."""
        self._name, self._title, self._say = name, title, say
        self._part_s = part_s
        self._x_name, self._x_unit = x_name, x_unit
        self._rows: list[Row] = []
        self._notes: list[str] = []
        self._left_out: list[str] = []
        self._began_s = time.monotonic()

    def row(
        self,
        metric: str,
        title: str,
        unit: Unit,
        samples: Mapping[str, Sequence[float]],
        **options: Unpack[RowOptions],
    ) -> None:
        """See results.row; a metric nobody measured makes no row."""
        if any(samples.values()):
            self._rows.append(row(metric, title, unit, samples, **options))

    def note(self, text: str) -> None:
        """What a reader must know to read the figures."""
        self._notes.append(text)

    def leave_out(self, text: str) -> None:
        """What was not measured, and why."""
        self._left_out.append(text)
        self._say(f"{self._name}: left out: {text}")

    def interleave(
        self,
        what: str,
        rounds: int,
        contenders: Mapping[str, Callable[[], Figures]],
        *,
        warmup: int | None = None,
    ) -> Samples:
        """See measure.interleave; says how far `what` is, and ends after a part's time."""
        until_s = time.monotonic() + self._part_s

        def tell(done: int, of: int) -> None:
            self._say(f"{self._name}: {what}, round {done} of {of}")

        return interleave(
            rounds, contenders, warmup=warmup, progress=tell, enough=lambda: time.monotonic() > until_s
        )

    def area(self) -> Area:
        """Everything so far."""
        return Area(
            self._name,
            self._title,
            tuple(self._rows),
            tuple(self._notes),
            tuple(self._left_out),
            self._x_name,
            self._x_unit,
            time.monotonic() - self._began_s,
        )
