"""Area 4, durability: what a change costs, however many files there are, and what folding it costs."""

from __future__ import annotations

from functools import partial

from guestmemfs_fuse.bench.area import Collector
from guestmemfs_fuse.bench.measure import Figures
from guestmemfs_fuse.bench.results import OURS, Area, Target
from guestmemfs_fuse.bench.rig import Bench
from guestmemfs_fuse.bench.scale import Scale

FLAT = Target("flat: at most 1.25x", 1.25, "ratio")
QUIET = "not folding"
KINDS = ("create", "chmod", "rename", "unlink")
_QUIET_S = 0.3


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
    """Change one file until the journal has been folded a few times; then again while it is not due."""
    most = max(scale.file_counts)
    path = bench.filled(most).mountpoint / "d0" / "file-000000"
    quiet: list[dict[str, float]] = []
    loud: list[dict[str, float]] = []
    folds = 0.0
    for attempt in range(3):
        bench.say(f"durability: folding the journal, attempt {attempt + 1} of 3")
        for seconds, found in ((_QUIET_S, quiet), (scale.pound_s / 3, loud)):
            before = _journal(bench, most)
            figures = bench.run("calls", "pound", path, seconds)
            after = _journal(bench, most)
            has_folded = after["compactions"] > before["compactions"] or after["segments"] > 1
            if has_folded == (found is loud):
                found.append(figures)
                folds += after["compactions"] - before["compactions"]
    if not quiet or not loud:
        out.leave_out("pauses of folding: the journal was folded always, or never, while we looked")
        return
    out.note(
        f"The journal of {most:,} files was folded {folds:.0f} times while chmod was called without a pause."
    )
    for metric, which in (("fold_median", "median"), ("fold_p99", "p99"), ("fold_longest", "longest")):
        samples = {
            OURS: [each[f"{which}_ns"] for each in loud],
            QUIET: [each[f"{which}_ns"] for each in quiet],
        }
        out.row(metric, f"chmod while the journal is folded, {which}", "ns", samples)
