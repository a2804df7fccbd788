"""`guestmemfs doctor`: what works on this host, what does not, and what to change.

Prints what `linux/probe` measured and what `linux/verdict` makes of it. The JSON keys and the exit code (0
when the default region kind works, UNSUPPORTED otherwise) are a contract, see docs/cli.md.
"""

from __future__ import annotations

import json
import os
import sys
import textwrap
from dataclasses import asdict

import click

from guestmemfs_fuse.core.errors import ExitCode
from guestmemfs_fuse.linux.probe import Probe, run_all
from guestmemfs_fuse.linux.verdict import RegionRow, judge
from guestmemfs_fuse.metadata.instance_config import DEFAULT_KIND

HELPERS = ("mount.guestmemfs", "mount.fuse.guestmemfs")
_WIDTH = 80


_EXAMPLES = """\b
Examples:
  guestmemfs doctor
  guestmemfs doctor --json
"""


@click.command(epilog=_EXAMPLES)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(as_json: bool) -> None:
    """Probe this host: what works, what does not, and what to change."""
    probes = run_all()
    regions = judge(probes)
    if as_json:
        click.echo(as_json_text(probes, regions))
    elif sys.stdout.isatty():
        _print_tables(probes, regions)
    else:
        click.echo("\n".join(as_lines(probes, regions)))
    if not as_json:
        click.echo("".join(f"{line}\n" for line in helper_advice()), nl=False)
    works = any(row.works for row in regions if row.kind == DEFAULT_KIND)
    sys.exit(ExitCode.OK if works else ExitCode.UNSUPPORTED)


def as_json_text(probes: list[Probe], regions: list[RegionRow]) -> str:
    """The documented JSON object."""
    return json.dumps(
        {
            "kernel": os.uname().release,
            "probes": [asdict(probe) for probe in probes],
            "regions": [asdict(row) for row in regions],
        },
        indent=2,
    )


def as_lines(probes: list[Probe], regions: list[RegionRow]) -> list[str]:
    """Plain text, at most 80 columns: abilities, region kinds, then what to change for the latter."""
    lines = [f"kernel {os.uname().release}", ""]
    lines += [_cut(f"{_mark(probe.ok):<4}{probe.name:<18}{probe.detail}") for probe in probes]
    lines += [""]
    lines += [_cut(f"{_mark(row.works):<4}{row.kind:<9}{_mmap(row):<15}{row.reason}") for row in regions]
    return [*lines, "", *advice(regions)] if advice(regions) else lines


def advice(regions: list[RegionRow]) -> list[str]:
    """What to change, wrapped; the same advice for several kinds is said once."""
    kinds: dict[str, list[str]] = {}
    for row in regions:
        if row.fix:
            kinds.setdefault(row.fix, []).append(row.kind)
    lines: list[str] = []
    for fix, names in kinds.items():
        first, *further = fix.split("; ")  # steps, each on a line of its own
        steps = [f"{', '.join(names)}: {first}", *(f"    {step}" for step in further)]
        for step in steps:
            lines += textwrap.wrap(step, _WIDTH, subsequent_indent="        ", break_on_hyphens=False)
    return lines


def helper_advice(sbin: str = "/sbin") -> list[str]:
    """How `mount -t guestmemfs` and fstab find us, where they do not: pip cannot install into /sbin.

    sbin: where mount(8) looks for helpers; the second name is the type that a remount asks for.
    """
    missing = [name for name in HELPERS if not os.path.exists(os.path.join(sbin, name))]
    if not missing:
        return []
    ours = os.path.join(os.path.dirname(sys.executable), HELPERS[0])
    if not os.path.exists(ours):
        return []
    return ["", "mount -t guestmemfs, fstab:", *(f"    ln -s {ours} {sbin}/{name}" for name in missing)]


def _print_tables(probes: list[Probe], regions: list[RegionRow]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def mark(ok: bool) -> Text:
        return Text(_mark(ok), style="green" if ok else "red")

    console = Console(highlight=False)

    def table(last: str, **columns: int) -> Table:
        """Columns of these widths, and a last one that is cut when it does not fit."""
        made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        made.add_column("", min_width=3)
        for name, width in columns.items():
            made.add_column(name, min_width=width)
        # rich would narrow the others first; 3 is what lies between two columns
        rest = console.width - 3 - sum(columns.values()) - 3 * (len(columns) + 1)
        made.add_column(last, no_wrap=True, overflow="ellipsis", max_width=rest)
        return made

    abilities = table("measured", ability=16)
    for probe in probes:
        abilities.add_row(mark(probe.ok), probe.name, Text(probe.detail))
    kinds = table("what it gives, or what is missing", region=7, mmap=14)
    for row in regions:
        kinds.add_row(mark(row.works), row.kind, _mmap(row), Text(row.reason))
    console.print(Text(f"kernel {os.uname().release}"), abilities, "", kinds, sep="\n")
    for line in ["", *advice(regions)]:
        console.print(Text(line))


def _mark(ok: bool) -> str:
    return "yes" if ok else "no"


def _mmap(row: RegionRow) -> str:
    return {"passthrough": "through mount", "run": "guestmemfs run", None: "-"}[row.mmap]


def _cut(text: str) -> str:
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"
