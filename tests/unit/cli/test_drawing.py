"""The region's picture: every byte drawn once, whoever owns it, and errors never hidden."""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestmemfs_fuse.cli import drawing
from guestmemfs_fuse.cli.drawing import FREE, HOLE, MIXED, POISON, Run

M = 1 << 20


def file(path: str, size: int, *extents: tuple[int, int, int | None]) -> dict[str, Any]:
    """extents: offset, length and offset in the region, in MiB."""
    return {
        "path": path,
        "ino": 7,
        "size_bytes": size * M,
        "pinned": False,
        "saved_guest": None,
        "extents": [
            {
                "offset_bytes": at * M,
                "length_bytes": length * M,
                "region_offset_bytes": None if there is None else there * M,
            }
            for at, length, there in extents
        ],
    }


def parts(size: int, files: list[dict[str, Any]], *, one_file: bool, poisoned: int | None = None) -> Any:
    bad = [] if poisoned is None else [{"region_offset_bytes": poisoned * M, "length_bytes": 2 * M}]
    region = {"kind": "x", "size_bytes": size * M, "block_bytes": 2 * M, "used_bytes": 0}
    return {"region": region, "files": files, "free": [] if one_file else None, "poisoned": bad}


def test_extents_of_one_file_are_drawn_where_they_are() -> None:
    whole = drawing.runs(
        parts(16, [file("/a", 6, (0, 2, 8), (2, 4, 0)), file("/b", 2, (0, 2, 4))], one_file=True, poisoned=12)
    )
    assert [run.owner for run in whole] == [0, 1, FREE, 0, FREE, POISON, FREE]
    line, cell = drawing.cells(whole, 2 * M)
    assert ("".join(map(drawing.glyph, line)), cell) == ("AAB·A·✖·", 2 * M)


def test_files_with_backings_follow_each_other_with_their_holes() -> None:
    whole = drawing.runs(
        parts(20, [file("/a", 7, (0, 2, None), (4, 2, None)), file("/b", 2, (0, 2, None))], one_file=False)
    )
    assert "".join(map(drawing.glyph, drawing.cells(whole, 2 * M)[0])) == "A○A○B·····"


def test_cells_grow_until_the_picture_fits_and_say_so() -> None:
    whole = [Run(0, 1 << 40, FREE)]
    lines, cell_bytes = drawing.rows(whole, 2 * M)
    assert len(lines) <= drawing.ROWS and all(len(line) <= drawing.COLUMNS for line in lines)
    assert cell_bytes * sum(map(len, lines)) >= 1 << 40


def test_neighbours_in_one_cell_are_mixed_but_poison_shows() -> None:
    unit = 2 * M * 64 * 24
    mixed = [Run(0, unit - 2 * M, 0), Run(unit - 2 * M, unit + 2 * M, 1)]
    assert MIXED in drawing.cells(mixed, 2 * M)[0]
    poisoned = [Run(0, 2 * M, 0), Run(2 * M, 2 * M, POISON), Run(4 * M, 2 * unit, FREE)]
    assert drawing.cells(poisoned, 2 * M)[0][0] == POISON


def test_the_legend_counts_pieces() -> None:
    shown = parts(16, [file("/a", 6, (0, 2, 8), (2, 4, 0)), file("", 2, (0, 2, 4))], one_file=True)
    texts = [drawing.legend_text(each) for each in drawing.legend(shown, drawing.runs(shown))]
    assert texts == ["/a: 6 MiB in 2 pieces", "(unlinked, inode 7): 2 MiB", "free: 8 MiB in 2 pieces"]


def test_the_svg_is_whole_and_escapes_names() -> None:
    shown = parts(8, [file("/<&>", 2, (0, 2, 0))], one_file=True)
    root = ElementTree.fromstring(drawing.svg(shown, drawing.runs(shown), "a & b"))
    titles = [each.text for each in root.iter("{http://www.w3.org/2000/svg}title")]
    assert titles[0] == "a & b" and "/<&> at 0 B" in titles
    assert len(list(root.iter("{http://www.w3.org/2000/svg}rect"))) == 4 + 2  # cells, legend


@given(st.lists(st.sampled_from([None, 0, 1, 2]), min_size=1, max_size=60), st.booleans())
def test_every_block_is_drawn_exactly_once(owners: list[int | None], one_file: bool) -> None:
    files = []
    for index in range(3):
        mine = [at for at, owner in enumerate(owners) if owner == index]
        where = [(2 * n, 2, 2 * at if one_file else None) for n, at in enumerate(mine)]
        files.append(file(f"/{index}", 2 * len(mine), *where))
    whole = drawing.runs(parts(2 * len(owners), files, one_file=one_file))
    assert whole[0].start_bytes == 0
    for before, after in pairwise(whole):
        assert before.start_bytes + before.length_bytes == after.start_bytes
    assert sum(run.length_bytes for run in whole) == 2 * len(owners) * M
    assert HOLE not in {run.owner for run in whole}
    if one_file:
        cells = drawing.cells(whole, 2 * M)[0]
        assert cells == [FREE if owner is None else owner for owner in owners]


def test_a_named_region_is_drawn_and_a_file_cannot_be(
    run: Any, make_instance: Any, daemon: Any, see: Any
) -> None:
    from tests.unit.cli.fakes import SERVING

    make_instance("guests")
    see(SERVING)
    daemon.serves()
    daemon.answers["picture"] = parts(8, [file("/a", 2, (0, 2, 4))], one_file=True)
    done = run("map", "guests")
    assert done.exit_code == 0 and "··A·" in done.stdout
    assert run("map", "/mnt/guests").stdout == done.stdout
    assert run("map", "/mnt/guests/a", "--svg", "x").exit_code == 2


def test_a_stopped_region_is_not_drawn(run: Any, make_instance: Any, see: Any) -> None:
    from tests.unit.cli.fakes import STOPPED

    make_instance("guests")
    see(STOPPED)
    done = run("map", "guests")
    assert done.exit_code == 8 and "is not served" in done.stderr


@pytest.mark.parametrize("owner", [FREE, HOLE, POISON, MIXED, 0, 9, 60])
def test_every_owner_has_glyph_and_colour(owner: int | str) -> None:
    assert len(drawing.glyph(owner)) == 1
    assert len(bytes.fromhex(drawing.colour(owner)[1:])) == 3
