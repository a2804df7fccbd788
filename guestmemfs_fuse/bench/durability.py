"""Area 4, durability: what a change costs, however many files there are, and what folding it costs."""

from __future__ import annotations

import time
from functools import partial

from guestmemfs_fuse.bench.area import Collector
from guestmemfs_fuse.bench.measure import Figures
from guestmemfs_fuse.bench.results import OURS, Area, Target
from guestmemfs_fuse.bench.rig import Bench
from guestmemfs_fuse.bench.scale import Scale

FLAT = Target("flat: at most 1.25x", 1.25, "ratio")
QUIET = "not folding"
KINDS = ("create", "chmod", "rename", "unlink")
_MOMENT_S, _MOMENTS = 0.4, 4
"""How long chmod is called before we look whether the journal was folded, and how many such samples do."""


def measure(bench: Bench, scale: Scale) -> Area:
    """Run the area."""
    out = Collector("durability", "Durability", bench.say, scale.part_s, x_name="files", x_unit="files")
    out.note(
        "Every change is in the journal before it is answered. Changes are made in the one directory that "
        "holds all files, to one more file; the control is the instance with the fewest."
    )
    _flatness(bench, scale, out)
    if scale.pound_s:
        _folding(bench, scale, out)
    return out.area()


def _flatness(bench: Bench, scale: Scale, out: Collector) -> None:
    fewest, *_ = counts = scale.file_counts
    per_change: dict[int, list[float]] = {count: [] for count in counts}

    def one(count: int) -> Figures:
        instance = bench.filled(count)
        before = _journal(bench, count)
        figures = bench.run("calls", "changes", instance.mountpoint / "d0", scale.changes)
        after = _journal(bench, count)
        if after["compactions"] == before["compactions"]:
            written = after["journal_bytes"] - before["journal_bytes"]
            per_change[count].append(written / (scale.changes * len(KINDS)))
        return figures

    for count in counts:
        bench.filled(count)
    turns = {_named(count): partial(one, count) for count in counts}
    samples = out.interleave("changes beside many files", scale.rounds, turns)
    control = _named(fewest)
    for kind in KINDS:
        for count in counts:
            figures = {OURS: samples[kind][_named(count)], control: samples[kind][control]}
            is_control = count == fewest
            out.row(
                kind,
                f"{kind} beside {count:,} files",
                "ns",
                {OURS: figures[OURS]} if is_control else figures,
                control=None if is_control else control,
                x=count,
                target=None if is_control else FLAT,
            )
    for count in counts:
        out.row(
            "journal_bytes", f"journal per change, {count:,} files", "B", {OURS: per_change[count]}, x=count
        )


def _named(count: int) -> str:
    return f"{count:,} files"


def _journal(bench: Bench, count: int) -> dict[str, float]:
    found: dict[str, float] = bench.filled(count).status()["journal"]
    return found


def _folding(bench: Bench, scale: Scale, out: Collector) -> None:
    """Change one file without a pause, a moment at a time; the journal is folded during some of them."""
    most = max(scale.file_counts)
    path = bench.filled(most).mountpoint / "d0" / "file-000000"
    found: dict[bool, list[dict[str, float]]] = {True: [], False: []}
    bench.say(f"durability: folding a journal of {most:,} files, for up to {scale.pound_s:g} s")
    until_s = time.monotonic() + scale.pound_s
    after = _journal(bench, most)
    while time.monotonic() < until_s and min(map(len, found.values())) < _MOMENTS:
        before = after
        figures = bench.run("calls", "pound", path, _MOMENT_S)
        after = _journal(bench, most)
        # A second segment is there from the beginning of a fold until its end.
        folding = after["compactions"] > before["compactions"] or max(_segments(before, after)) > 1
        found[folding].append(figures)
    if not found[True] or not found[False]:
        out.leave_out("pauses of folding: the journal was folded always, or never, while we looked")
        return
    for metric, which in (("fold_median", "median"), ("fold_p99", "p99"), ("fold_longest", "longest")):
        samples = {
            OURS: [each[f"{which}_ns"] for each in found[True]],
            QUIET: [each[f"{which}_ns"] for each in found[False]],
        }
        title = f"chmod while the journal of {most:,} files is folded, {which}"
        out.row(metric, title, "ns", samples, control=QUIET)


def _segments(*journals: dict[str, float]) -> list[float]:
    return [each["segments"] for each in journals]
