"""Area 4, durability: what a change costs, however many files there are, and what folding it costs."""

from __future__ import annotations

import math
import os
import time
from functools import partial

from guestmemfs_fuse.bench.area import Collector
from guestmemfs_fuse.bench.measure import Figures
from guestmemfs_fuse.bench.native import ToolFailedError
from guestmemfs_fuse.bench.results import OURS, Area, Target
from guestmemfs_fuse.bench.rig import Bench, Instance
from guestmemfs_fuse.bench.scale import Scale

FLAT = Target("flat: at most 1.25x", 1.25, "ratio")
SHORT = Target("under 20 ms", 20e6, "figure")
QUIET = "not folding"
KINDS = ("create", "chmod", "rename", "unlink")
_FOLDS = 5
"""Folds that are enough; each is followed by as long without one, up to _MOST_S: too short for the next."""

_MOST_S, _FOLD_TIMEOUT_S = 2.0, 60.0
_LARGE_BYTES = 1024
"""Of an attribute's value: a thousand such changes make a journal long enough to be folded."""


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
    """What a client waits that asks for attributes, while another makes changes and these are folded."""
    most = max(scale.file_counts)
    bench.filled(most)
    bench.say(f"durability: folding a journal of {most:,} files, for up to {scale.pound_s:g} s")
    found: dict[str, list[Figures]] = {OURS: [], QUIET: []}
    until_s = time.monotonic() + scale.pound_s
    while time.monotonic() < until_s and len(found[QUIET]) < _FOLDS:
        folding = _Folding(bench.filled(most))
        began_s = time.monotonic()
        with bench.watching(folding.path) as figures:
            folding.fold(_FOLD_TIMEOUT_S)
        took_s = time.monotonic() - began_s
        found[OURS].append(figures)
        with bench.watching(folding.path) as figures:
            folding.change(min(took_s, _MOST_S))
        found[QUIET].append(figures)
    for metric, which in (("fold_median", "median"), ("fold_p99", "p99"), ("fold_longest", "longest")):
        samples = {name: [each[f"{which}_ns"] for each in figures] for name, figures in found.items()}
        title = f"stat while the journal of {most:,} files is folded, {which}"
        target = SHORT if which == "longest" else None
        out.row(metric, title, "ns", samples, control=QUIET, target=target)


class _Folding:
    """Changes to one file of an instance, large ones to make its journal long."""

    def __init__(self, instance: Instance) -> None:
        self.path = instance.mountpoint / "d0" / "file-000000"
        self._metadata = instance.region_path / "metadata"

    def fold(self, timeout_s: float) -> None:
        """Have the journal folded, and go on with small changes until it is. Raises ToolFailedError."""
        until_s = time.monotonic() + timeout_s
        while not self._is_under_way():
            self._change(_LARGE_BYTES, until_s)
        while self._is_under_way():
            self._change(0, until_s)

    def change(self, seconds: float) -> None:
        """Small changes for so long."""
        until_s = time.monotonic() + seconds
        while time.monotonic() < until_s:
            self._change(0, math.inf)

    def _change(self, size_bytes: int, until_s: float) -> None:
        if time.monotonic() > until_s:
            raise ToolFailedError("the journal was not folded")
        os.setxattr(self.path, "user.bench", bytes(size_bytes))

    def _is_under_way(self) -> bool:
        """A second segment is there from the beginning of a fold until its end."""
        return len(list(self._metadata.glob("journal-*.gmj"))) > 1
