"""A region as a picture: rows of blocks in the terminal, or an SVG.

Pure: what the daemon said in, text out. A region is laid out as one line of blocks. Where it is one file,
blocks are where they are in it; otherwise files follow each other, each with the holes it has, and what is
left of the region's size comes last. Called by `map TARGET`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from guestmemfs_fuse.cli.output import file_label
from guestmemfs_fuse.cli.sizes import size_text

COLUMNS = 64
ROWS = 24
FREE, HOLE, POISON, MIXED = "free", "hole", "poison", "mixed"
GLYPHS = {FREE: "·", HOLE: "○", POISON: "✖", MIXED: "▒"}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
COLOURS = (
    "#4477aa",
    "#ee6677",
    "#228833",
    "#ccbb44",
    "#66ccee",
    "#aa3377",
    "#ee8866",
    "#99ddff",
    "#44bb99",
    "#777777",
)
"""Told apart by colour-blind people too; used again after ten files."""


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring blocks of one sort; owner: the index of a file, or FREE, HOLE, POISON."""

    start_bytes: int
    length_bytes: int
    owner: int | str


@dataclass(frozen=True, slots=True)
class Legend:
    """One file, or what is free, in words."""

    owner: int | str
    name: str
    bytes: int
    pieces: int


def runs(parts: Mapping[str, Any]) -> list[Run]:
    """The region from its beginning to its end."""
    size_bytes, files = parts["region"]["size_bytes"], parts["files"]
    placed = list(_in_region(files) if parts["free"] is not None else _one_behind_another(parts))
    placed += [Run(each["region_offset_bytes"], each["length_bytes"], POISON) for each in parts["poisoned"]]
    return list(_filled(sorted(placed, key=lambda run: run.start_bytes), size_bytes))


def _in_region(files: Sequence[Mapping[str, Any]]) -> Iterator[Run]:
    for index, file in enumerate(files):
        for extent in file["extents"]:
            yield Run(extent["region_offset_bytes"], extent["length_bytes"], index)


def _one_behind_another(parts: Mapping[str, Any]) -> Iterator[Run]:
    block, at = parts["region"]["block_bytes"], 0
    for index, file in enumerate(parts["files"]):
        inside = 0
        for extent in file["extents"]:
            if extent["offset_bytes"] > inside:
                yield Run(at + inside, extent["offset_bytes"] - inside, HOLE)
            yield Run(at + extent["offset_bytes"], extent["length_bytes"], index)
            inside = extent["offset_bytes"] + extent["length_bytes"]
        whole = -(-file["size_bytes"] // block) * block
        if whole > inside:
            yield Run(at + inside, whole - inside, HOLE)
        at += max(whole, inside)


def _filled(placed: Sequence[Run], size_bytes: int) -> Iterator[Run]:
    """With what lies between, and behind, being free. Holes may let files reach beyond the region's size."""
    at = 0
    for run in placed:
        if run.start_bytes > at:
            yield Run(at, run.start_bytes - at, FREE)
        yield run
        at = max(at, run.start_bytes + run.length_bytes)
    if at < size_bytes:
        yield Run(at, size_bytes - at, FREE)


def legend(parts: Mapping[str, Any], whole: Sequence[Run]) -> list[Legend]:
    """Every file in order, then what else there is; pieces are runs: fragmentation."""
    said = []
    for owner in [*range(len(parts["files"])), FREE, HOLE, POISON]:
        mine = [run for run in whole if run.owner == owner]
        if mine or isinstance(owner, int):
            name = owner if isinstance(owner, str) else file_label(parts["files"][owner])
            said.append(Legend(owner, name, sum(run.length_bytes for run in mine), len(mine)))
    return said


def glyph(owner: int | str) -> str:
    """One character for an owner."""
    return GLYPHS[owner] if isinstance(owner, str) else LETTERS[owner % len(LETTERS)]


def colour(owner: int | str) -> str:
    """#rrggbb for an owner."""
    if isinstance(owner, int):
        return COLOURS[owner % len(COLOURS)]
    return {FREE: "#eeeeee", HOLE: "#cccccc", POISON: "#cc0000"}.get(owner, "#999999")


def cells(whole: Sequence[Run], block_bytes: int) -> tuple[list[int | str], int]:
    """Owners of the picture's cells, and how many bytes each stands for.

    A cell in which several meet is MIXED, unless one of them is POISON, which is never hidden.
    """
    size_bytes = whole[-1].start_bytes + whole[-1].length_bytes if whole else 0
    cell_bytes = block_bytes
    while size_bytes > cell_bytes * COLUMNS * ROWS:
        cell_bytes *= 2
    found: list[set[int | str]] = [set() for _ in range(-(-size_bytes // cell_bytes))]
    for run in whole:
        first = run.start_bytes // cell_bytes
        last = (run.start_bytes + run.length_bytes - 1) // cell_bytes
        for index in range(first, last + 1):
            found[index].add(run.owner)
    return [_cell(owners) for owners in found], cell_bytes


def _cell(owners: set[int | str]) -> int | str:
    if POISON in owners:
        return POISON
    return next(iter(owners)) if len(owners) == 1 else MIXED


def rows(whole: Sequence[Run], block_bytes: int) -> tuple[list[list[int | str]], int]:
    """The cells in lines of COLUMNS, and the bytes of a cell."""
    line, cell_bytes = cells(whole, block_bytes)
    return [line[at : at + COLUMNS] for at in range(0, len(line), COLUMNS)], cell_bytes


def svg(parts: Mapping[str, Any], whole: Sequence[Run], title: str) -> str:
    """A picture that stands alone: hover over a cell to see whose it is."""
    lines, cell_bytes = rows(whole, parts["region"]["block_bytes"])
    said = legend(parts, whole)
    side, top = 12, 30
    width, height = COLUMNS * side + 20, top + len(lines) * side + 20 + 18 * len(said)
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<text x="10" y="18">{escape(title)}, a cell is {size_text(cell_bytes)}</text>',
    ]
    names = {each.owner: each.name for each in said}
    for y, line in enumerate(lines):
        for x, owner in enumerate(line):
            where = size_text((y * COLUMNS + x) * cell_bytes)
            hint = escape(f"{names.get(owner, owner)} at {where}")
            out.append(
                f'<rect x="{10 + x * side}" y="{top + y * side}" width="{side - 1}" height="{side - 1}" '
                f'fill="{colour(owner)}"><title>{hint}</title></rect>'
            )
    for index, each in enumerate(said):
        y = top + len(lines) * side + 18 * (index + 1)
        out.append(f'<rect x="10" y="{y - 10}" width="11" height="11" fill="{colour(each.owner)}"/>')
        out.append(f'<text x="28" y="{y}">{escape(legend_text(each))}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


def legend_text(each: Legend) -> str:
    """One line of the legend."""
    pieces = "" if each.pieces < 2 else f" in {each.pieces} pieces"
    return f"{each.name}: {size_text(each.bytes)}{pieces}"
