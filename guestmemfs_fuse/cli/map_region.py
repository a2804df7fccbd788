"""`guestmemfs map TARGET`: the whole region as a picture. Called by cli/map.py."""

from __future__ import annotations

import sys
from typing import Any

import click

from guestmemfs_fuse.cli import daemons, drawing
from guestmemfs_fuse.cli.drawing import Run
from guestmemfs_fuse.cli.output import print_json, printable, result
from guestmemfs_fuse.cli.sizes import size_text
from guestmemfs_fuse.cli.survey import Finding
from guestmemfs_fuse.core.errors import DaemonError


def show_region(found: Finding, *, as_json: bool, svg_path: str | None) -> None:
    """Print or write the picture. Raises DaemonError when the instance is not served."""
    if found.pong is None:
        raise DaemonError(
            f"instance {found.instance.name} is not served",
            hint=found.advice or f"`guestmemfs mount {found.instance.config.mountpoint}` first",
        )
    parts = daemons.ask(found.instance, "picture", wait_s=daemons.RESTART_WAIT_S)
    if as_json:
        print_json(parts)
        return
    whole = drawing.runs(parts)
    title = _title(found.instance.name, parts)
    if svg_path is None:
        _draw(parts, whole, title)
        return
    if svg_path == "-":
        click.echo(drawing.svg(parts, whole, title).encode("utf-8", "backslashreplace"), nl=False)
        return
    with open(svg_path, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(drawing.svg(parts, whole, title))
    result(f"{svg_path}: {title}")


def _title(name: str, parts: dict[str, Any]) -> str:
    region = parts["region"]
    return (
        f"{name}: {region['kind']} region of {size_text(region['size_bytes'])}, "
        f"{size_text(region['used_bytes'])} used"
    )


def _draw(parts: dict[str, Any], whole: list[Run], title: str) -> None:
    lines, cell_bytes = drawing.rows(whole, parts["region"]["block_bytes"])
    result(f"{title}, a cell is {size_text(cell_bytes)}")
    coloured = sys.stdout.isatty()
    for number, line in enumerate(lines):
        where = size_text(number * drawing.COLUMNS * cell_bytes)
        click.echo(f"{where:>10}  " + "".join(_painted(owner, coloured) for owner in line), color=coloured)
    result("")
    for each in drawing.legend(parts, whole):
        text = printable(drawing.legend_text(each))
        click.echo(f"{_painted(each.owner, coloured):>1}  {text}", color=coloured)
    if any(run.owner == drawing.POISON for run in whole):
        result("✖ is memory with hardware errors, never handed out again")


def _painted(owner: int | str, coloured: bool) -> str:
    glyph = drawing.glyph(owner)
    if not coloured:
        return glyph
    red, green, blue = bytes.fromhex(drawing.colour(owner)[1:])
    return click.style(glyph, fg=(red, green, blue))
