"""The page's plots, as SVG by matplotlib: one an area, the same bytes for the same results.

matplotlib is asked for only here (`pip install guestmemfs-fuse[bench]`). Called by `guestmemfs bench --out`.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from guestmemfs_fuse.bench import text
from guestmemfs_fuse.bench.results import OURS, Area, Results, Row, contenders

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLOURS = ("#1f6fb4", "#e0803a", "#4b9d5f", "#8d6bb0", "#a0a0a0", "#c24b55")
_MARKERS = "oDs^vP"
_WIDTH_INCH = 9.0


def available() -> bool:
    """Whether there is a matplotlib to draw with."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(results: Results, directory: Path) -> list[str]:
    """Write AREA.svg into `directory` for every area with something to show; their names."""
    import matplotlib

    matplotlib.use("svg")
    # Without these every run would write other bytes: random ids, and text as outlines of some font.
    settings: Any = {"svg.hashsalt": "guestmemfs", "svg.fonttype": "none", "font.size": 9}
    drawn = []
    with matplotlib.rc_context(settings):
        for area in results.areas:
            ratios = [row for row in area.rows if row.ratios and row.x is None]
            curves = _curves(area)
            if ratios or curves:
                _draw_area(area, ratios, curves, directory / f"{area.name}.svg")
                drawn.append(area.name)
    return drawn


def _curves(area: Area) -> dict[str, list[Row]]:
    """Rows of one metric along x, where there are at least two."""
    found: dict[str, list[Row]] = {}
    for row in area.rows:
        if row.x is not None:
            found.setdefault(row.metric, []).append(row)
    return {metric: rows for metric, rows in found.items() if len(rows) > 1}


def _draw_area(area: Area, ratios: list[Row], curves: dict[str, list[Row]], path: Path) -> None:
    from matplotlib.figure import Figure

    lines = -(-len(curves) // 3)
    heights = [0.34 * len(ratios) + 1.2] * bool(ratios) + [2.5 * lines] * bool(curves)
    figure = Figure(figsize=(_WIDTH_INCH, sum(heights)), layout="constrained")
    # Parts of their own, or the curves would leave room for the names of the rows above.
    parts = list(figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0])
    if ratios:
        _draw_ratios(parts[0].add_subplot(), ratios)
    for number, rows in enumerate(curves.values(), 1):
        _draw_curve(parts[-1].add_subplot(lines, min(3, len(curves)), number), area, rows)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})


def _draw_ratios(axes: Axes, rows: list[Row]) -> None:
    """Cost relative to each row's control, with quartiles; the line at 1 is the control."""
    names = list(dict.fromkeys(name for row in rows for name in row.ratios or {}))
    names.sort(key=lambda name: name != OURS)
    for number, name in enumerate(names):
        places = [(-at, row.ratios[name]) for at, row in enumerate(rows) if row.ratios and name in row.ratios]
        medians = [each.median for _, each in places]
        spread = [
            [each.median - each.low for _, each in places],
            [each.high - each.median for _, each in places],
        ]
        axes.errorbar(
            medians,
            [at + 0.12 * (len(names) - 1 - 2 * number) / max(1, len(names) - 1) for at, _ in places],
            xerr=spread,
            fmt=_MARKERS[number % len(_MARKERS)],
            color=_COLOURS[number % len(_COLOURS)],
            label=name,
            markersize=5,
            linewidth=1,
        )
    axes.axvline(1.0, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_yticks([-at for at in range(len(rows))], [row.title for row in rows])
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    few = axes.get_xlim()[1] < 20 * axes.get_xlim()[0]  # decades alone would hardly say anything
    axes.xaxis.set_minor_formatter(
        lambda value, _: f"{value:.2g}x" if few and f"{value:e}"[0] in "235" else ""
    )
    controls = list(dict.fromkeys(row.control for row in rows if row.control))
    axes.set_xlabel(f"cost relative to the control (1x: {' or '.join(controls)}); less is better")
    axes.grid(axis="x", color="#dddddd", linewidth=0.6)
    axes.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.4, 1.0), ncols=4, frameon=False)


def _draw_curve(axes: Axes, area: Area, rows: list[Row]) -> None:
    from matplotlib.ticker import MultipleLocator

    names = [name for name in contenders(rows) if sum(name in row.figures for row in rows) > 1]
    unit = rows[0].unit
    for number, name in enumerate(names):
        points = [(row.x or 0.0, row.figures[name]) for row in rows if name in row.figures]
        axes.errorbar(
            [x for x, _ in points],
            [each.median for _, each in points],
            yerr=[
                [each.median - each.low for _, each in points],
                [each.high - each.median for _, each in points],
            ],
            marker=_MARKERS[number % len(_MARKERS)],
            color=_COLOURS[number % len(_COLOURS)],
            label=name,
            markersize=4,
            linewidth=1.2,
        )
    axes.set_xscale("log")
    ticks = [row.x or 0.0 for row in rows]
    axes.set_xticks(ticks, [text.along(area, x) for x in ticks])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(lambda value, _: text.figure(value, unit))
    if unit == "B":  # in steps of a power of two
        axes.yaxis.set_major_locator(MultipleLocator(2 ** math.ceil(math.log2(axes.get_ylim()[1] / 6))))
    axes.set_xlabel(area.x_name or "")
    axes.set_title(rows[0].metric.replace("_", " "), fontsize=9)
    axes.grid(color="#dddddd", linewidth=0.6)
    if len(names) > 1:
        axes.legend(fontsize=8)
