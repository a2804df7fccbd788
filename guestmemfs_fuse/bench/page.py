"""The page: results as Markdown, in an order that depends on nothing but the results. Pure.

Called by `guestmemfs bench --out`, with the plots that were drawn.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from guestmemfs_fuse.bench import text
from guestmemfs_fuse.bench.results import Area, Results, Row, contenders

_INTRODUCTION = """\
Written by `make bench` (`make bench-full` takes longer), from one run on one machine; the figures behind
it are in [results.json](results.json). `guestmemfs bench --quick` checks another host in two minutes and
compares. No figure here is asserted by a test.

How to read it: contenders take turns within each round. A figure is the median over the rounds, with the
quartiles in parentheses. `x` is the cost relative to the control, made of two figures of the same round:
1.00x is equal, less is better, for times and for rates.
"""

_MACHINE_TITLES = {
    "date": "date",
    "cpu": "CPU",
    "cpus": "CPUs",
    "hypervisor": "virtual machine",
    "free_page_reporting": "hypervisor takes free pages back",
    "memory_bytes": "memory",
    "available_bytes": "available at the start",
    "load_1min": "load at the start (1 min)",
    "kernel": "kernel",
    "architecture": "architecture",
    "thp_enabled": "transparent huge pages",
    "thp_shmem_enabled": "of shmem",
    "thp_defrag": "defrag",
    "python": "Python",
    "pyfuse3": "pyfuse3",
    "qemu": "QEMU",
}


def markdown(results: Results, plots: Collection[str] = ()) -> str:
    """The whole page. plots: names of areas that have an AREA.svg beside the page."""
    parts = ["# Benchmarks", "", _INTRODUCTION, *_machine(results), *_targets(results)]
    for area in results.areas:
        parts += _area(area, area.name in plots)
    return "\n".join(parts).rstrip() + "\n"


def _machine(results: Results) -> Iterable[str]:
    yield from ("## The machine", "", "| | |", "|---|---|")
    for key, title in _MACHINE_TITLES.items():
        value = results.machine.get(key)
        if value is None:
            continue
        yield f"| {title} | {_machine_value(key, value)} |"
    yield f"| guestmemfs | {results.version}, `{results.scale}` run of {results.took_s / 60:.1f} min |"
    yield ""


def _machine_value(key: str, value: object) -> str:
    if key.endswith("_bytes") and isinstance(value, int | float):
        return text.figure(float(value), "B")
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _targets(results: Results) -> Iterable[str]:
    judged = [(area, row) for area in results.areas for row in area.rows if row.met is not None]
    met = sum(row.met is True for _, row in judged)
    yield from ("## Targets", "", f"{met} of {len(judged)} are met.", "")
    missed = [(area, row) for area, row in judged if not row.met]
    if missed:
        yield from ("| not met | ours | target |", "|---|---|---|")
        for area, row in missed:
            yield f"| {area.title}: {row.title} | {_judged(row)} | {row.target.text if row.target else ''} |"
        yield ""


def _judged(row: Row) -> str:
    """The figure the target is about."""
    if row.judged is None:
        return ""
    if row.target is not None and row.target.of == "ratio":
        return f"{text.ratio(row.judged)} of {row.control}"
    return text.summary(row.judged, row.unit)


def _area(area: Area, has_plot: bool) -> Iterable[str]:
    yield from (f"## {area.title}", "")
    if area.failed:
        yield from (f"Not measured: {area.failed}", "")
        return
    for note in area.notes:
        yield from (note, "")
    if has_plot:
        yield from (f"![{area.title}]({area.name}.svg)", "")
    names = contenders(area.rows)
    if area.rows:
        yield "| | " + " | ".join(names) + " | target |"
        yield "|---" * (len(names) + 2) + "|"
    for row in area.rows:
        cells = [_cell(row, name, names) for name in names]
        yield f"| {row.title} | {' | '.join(cells)} | {text.verdict(row)} |"
    if area.left_out:
        yield from ("", "Left out:", "")
        yield from (f"- {reason}" for reason in area.left_out)
    yield from ("", f"Took {area.took_s:.0f} s.", "")


def _cell(row: Row, name: str, names: Collection[str]) -> str:
    if name not in row.figures:
        return "–"
    cell = text.summary(row.figures[name], row.unit)
    if row.ratios and name in row.ratios:
        of = "" if row.control in names else f" of {row.control}"
        cell += f"<br>{text.ratio(row.ratios[name])}{of}"
    return cell + ("<br>control" if name == row.control else "")
