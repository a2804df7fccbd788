"""Figures as people read them. Pure; called by the page, its plots and the command."""

from __future__ import annotations

from guestmemfs_fuse.bench.measure import Summary
from guestmemfs_fuse.bench.results import Area, Results, Row, Unit

_TIMES = (("s", 1e9), ("ms", 1e6), ("µs", 1e3), ("ns", 1.0))
_SIZES = (("GiB", float(1 << 30)), ("MiB", float(1 << 20)), ("KiB", 1024.0), ("B", 1.0))
_RATES = (("M", 1e6), ("k", 1e3), ("", 1.0))


def figure(value: float, unit: Unit) -> str:
    """One figure with its unit, three digits."""
    if unit == "ns":
        return _scaled(value, _TIMES)
    if unit in ("B", "B/s"):
        return _scaled(value, _SIZES) + unit[1:]
    if unit == "1/s":
        return f"{_scaled(value, _RATES)}/s"
    if unit == "fraction":
        return f"{value * 100:.4g}%"
    return f"{value:.3g}"


def _scaled(value: float, units: tuple[tuple[str, float], ...]) -> str:
    name, size = next((each for each in units if abs(value) >= each[1]), units[-1])
    return f"{digits(value / size)} {name}".strip() if value else f"0 {units[-1][0]}".strip()


def digits(value: float) -> str:
    """Three significant digits, without an exponent."""
    if abs(value) >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def summary(found: Summary, unit: Unit) -> str:
    """Median, and the quartiles where there are several samples that differ."""
    text = figure(found.median, unit)
    if found.count < 2 or found.low == found.high:
        return text
    return f"{text} ({figure(found.low, unit)} to {figure(found.high, unit)})"


def ratio(found: Summary) -> str:
    """A cost ratio with its quartiles."""
    text = f"{digits(found.median)}x"
    return text if found.count < 2 else f"{text} ({digits(found.low)} to {digits(found.high)})"


def verdict(row: Row) -> str:
    """The row's target and whether it is met, or nothing."""
    if row.target is None:
        return ""
    words = {True: "met", False: "**not met**", None: "not measured"}
    spread = ", quartiles on both sides" if row.is_close else ""
    return f"{row.target.text}: {words[row.met]}{spread}"


def along(area: Area, x: float) -> str:
    """Where on an area's curves a row stands."""
    if area.x_unit != "B":
        return f"{x:,.0f}"
    return f"{x / (1 << 30):g}G" if x >= 1 << 30 else f"{x / (1 << 20):g}M"


def machine(results: Results) -> str:
    """Where and when a run was, in a line: figures of other machines are not ours to reach."""
    known = results.machine
    parts = [known.get("cpu"), known.get("cpus") and f"{known['cpus']} CPUs"]
    parts += [known.get("kernel") and f"Linux {known['kernel']}", f"`{results.scale}` run", known.get("date")]
    return ", ".join(str(part) for part in parts if part)
