"""What a run found out, and the JSON it is published as. Pure.

A `Row` is one thing that was measured: its figures by contender, the cost ratios to its control, the
target if the project set itself one. Areas are rows with notes and with what was left out and why.

The format has a number: a file of another one is refused, never guessed at. Rows are known by area, metric
and x, and say in their title what else a figure depends on, so that two runs can be compared (`pairs`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypedDict, Unpack

from guestmemfs_fuse.bench.measure import Better, Summary, cost_ratios, summarize
from guestmemfs_fuse.core.errors import UsageError

FORMAT = "guestmemfs-bench"
FORMAT_VERSION = 1
IN_C = "libfuse, in C"
OURS = "guestmemfs"

Unit = Literal["ns", "B", "B/s", "1/s", "fraction", "count"]


@dataclass(frozen=True, slots=True)
class Target:
    """What the project wants of a row: `limit` on the figure itself, or on its cost ratio to the control.

    text: as the page says it. at_least: the figure has to reach the limit instead of staying within it.
    """

    text: str
    limit: float
    of: Literal["figure", "ratio"]
    at_least: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """One measured thing. x: where on a curve it stands (files, bytes), None for single rows."""

    metric: str
    title: str
    unit: Unit
    better: Better
    figures: Mapping[str, Summary]
    control: str | None = None
    ratios: Mapping[str, Summary] | None = None
    x: float | None = None
    target: Target | None = None

    @property
    def judged(self) -> Summary | None:
        """What the target is about; None when there is no target, or nothing to judge it by."""
        if self.target is None:
            return None
        return (self.figures if self.target.of == "figure" else self.ratios or {}).get(OURS)

    @property
    def met(self) -> bool | None:
        """Whether ours meets the target by its median; None as for `judged`."""
        return None if self.judged is None else self._within(self.judged.median)

    @property
    def is_close(self) -> bool:
        """Whether the quartiles lie on both sides of the target: another run may say the other thing."""
        found = self.judged
        return found is not None and self._within(found.low) != self._within(found.high)

    def _within(self, value: float) -> bool:
        assert self.target is not None
        return value >= self.target.limit if self.target.at_least else value <= self.target.limit


@dataclass(frozen=True, slots=True)
class Area:
    """One part of the suite. failed: why there is nothing to show."""

    name: str
    title: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    x_name: str | None = None
    x_unit: Literal["files", "B"] | None = None
    took_s: float = 0.0
    failed: str | None = None


def contenders(rows: Sequence[Row]) -> list[str]:
    """Whose figures are worth showing beside each other: ours first, then in the order they appear.

    Not a control that is just one row of ours again, as curves have it.
    """
    seen = dict.fromkeys(name for row in rows for name in row.figures)
    own = [row.figures[OURS] for row in rows if OURS in row.figures]

    def is_ours(name: str) -> bool:
        return name != OURS and all(row.figures[name] in own for row in rows if name in row.figures)

    return sorted((name for name in seen if not is_ours(name)), key=lambda name: name != OURS)


@dataclass(frozen=True, slots=True)
class Results:
    """One run. machine: see machine.describe; scale: quick, bench, full or tiny."""

    machine: Mapping[str, object]
    scale: str
    version: str
    took_s: float
    areas: tuple[Area, ...]


class RowOptions(TypedDict, total=False):
    """What a row may have besides its figures: see `Row`, and for control `row`."""

    control: str | None
    better: Better
    x: float | None
    target: Target | None


def row(
    metric: str, title: str, unit: Unit, samples: Mapping[str, Sequence[float]], **options: Unpack[RowOptions]
) -> Row:
    """A row from the samples of each contender (as measure.interleave collects them).

    control: the contender the others are compared with; without samples of its own there are no ratios.
    """
    control, better = options.get("control"), options.get("better", "less")
    figures = {name: summarize(values) for name, values in samples.items() if values}
    ratios: dict[str, Summary] = {}
    if control is not None and control in figures:
        for name in figures:
            each = cost_ratios(samples[name], samples[control], better) if name != control else []
            if each:
                ratios[name] = summarize(each)
    return Row(metric, title, unit, better, figures, control, ratios, options.get("x"), options.get("target"))


# -- JSON ------------------------------------------------------------------------------------------------


def to_json(results: Results) -> str:
    """The published text: contenders in the order in which they are shown, one line at the end."""
    value = {"format": FORMAT, "format_version": FORMAT_VERSION, **asdict(results)}
    for area, source in zip(value["areas"], results.areas, strict=True):
        for published, each in zip(area["rows"], source.rows, strict=True):
            published["met"] = each.met
    return json.dumps(_rounded(value), indent=1) + "\n"


def as_published(results: Results) -> Results:
    """With the digits that the JSON has, so that whatever is made of them says what is made of the JSON."""
    return from_json(to_json(results))


def from_json(text: str) -> Results:
    """Raises UsageError when it is not what this version writes."""
    try:
        value = json.loads(text)
        if value["format"] != FORMAT or value["format_version"] != FORMAT_VERSION:
            raise UsageError(
                f"results of format {value['format']} {value['format_version']}, "
                f"this version reads {FORMAT} {FORMAT_VERSION}"
            )
        areas = tuple(_area(each) for each in value["areas"])
        return Results(dict(value["machine"]), value["scale"], value["version"], value["took_s"], areas)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"these are no benchmark results: {type(error).__name__}: {error}") from error


def _area(value: Mapping[str, Any]) -> Area:
    rows = tuple(_row(each) for each in value["rows"])
    return Area(
        value["name"],
        value["title"],
        rows,
        tuple(value["notes"]),
        tuple(value["left_out"]),
        value["x_name"],
        value["x_unit"],
        value["took_s"],
        value["failed"],
    )


def _row(value: Mapping[str, Any]) -> Row:
    ratios, target = value["ratios"], value["target"]
    return Row(
        value["metric"],
        value["title"],
        value["unit"],
        value["better"],
        _summaries(value["figures"]),
        value["control"],
        None if ratios is None else _summaries(ratios),
        value["x"],
        None if target is None else Target(**target),
    )


def _summaries(value: Mapping[str, Any]) -> dict[str, Summary]:
    for each in value.values():
        if not all(isinstance(number, int | float) for number in each.values()):
            raise TypeError("a figure that is no number")
    return {name: Summary(**each) for name, each in value.items()}


def _rounded(value: Any) -> Any:
    """Floats to five digits: more were never measured."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(each) for each in value]
    return value


# -- two runs --------------------------------------------------------------------------------------------


def pairs(here: Results, published: Results) -> Iterator[tuple[Area, Row, Row]]:
    """Rows that both runs have, in the order of the first: (area, here, published).

    A title says what else a figure depends on (threads, entries, seconds), so it has to be the same, too.
    """
    known = {(area.name, row.metric, row.x): row for area in published.areas for row in area.rows}
    for area in here.areas:
        for row in area.rows:
            other = known.get((area.name, row.metric, row.x))
            if other is not None and other.title == row.title:
                yield area, row, other
