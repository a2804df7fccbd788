"""`guestmemfs bench`: run the benchmark, show what it found, write or compare with the published page."""

from __future__ import annotations

import os
import signal
import tempfile
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import click

from guestmemfs_fuse.cli import host
from guestmemfs_fuse.cli.output import result, say, table

if TYPE_CHECKING:
    from guestmemfs_fuse.bench.results import Results

AREAS = ("memory", "guest", "control", "lifecycle", "durability", "allocation")
SCALE_VARIABLE = "GUESTMEMFS_BENCH_SCALE"
"""`tiny` measures next to nothing in a few seconds: for the suite's own test."""

_path = click.Path(path_type=Path)
_file = click.Path(path_type=Path, exists=True, dir_okay=False)

_EXAMPLES = """\b
Examples:
  guestmemfs bench --quick
  guestmemfs bench --area control --area memory
  guestmemfs bench --full --out results/ --guest-kernel /boot/vmlinuz
"""


@click.command(epilog=_EXAMPLES)
@click.option("--quick", is_flag=True, help="A minute and a half; without guests.")
@click.option("--full", is_flag=True, help="More rounds and sizes; the better part of an hour.")
@click.option(
    "--area", "areas", type=click.Choice(AREAS), multiple=True, help="Only this area (may be repeated)."
)
@click.option("--out", "directory", type=_path, metavar="DIR", help="Write page, plots and JSON there.")
@click.option(
    "--against", type=_path, metavar="FILE", help="JSON of another run.  [default: the published page's]"
)
@click.option(
    "--guest-kernel", type=_file, metavar="FILE", help="Kernel for guests.  [default: this host's, in /boot]"
)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
def bench(
    quick: bool,
    full: bool,
    areas: tuple[str, ...],
    directory: Path | None,
    against: Path | None,
    guest_kernel: Path | None,
    as_json: bool,
) -> None:
    """Measure this host: ours beside the alternatives, in turns, and compare with the published figures.

    Takes under ten minutes (--quick: two). Works on instances of its own, in memory; needs a C compiler.
    Everything it makes is gone afterwards, also when it is interrupted.
    """
    if quick and full:
        raise click.UsageError("--quick and --full contradict each other")
    host.require_root()
    host.require_fuse()
    from guestmemfs_fuse.bench import results as form
    from guestmemfs_fuse.bench import suite
    from guestmemfs_fuse.bench.scale import SCALES

    scale = os.environ.get(SCALE_VARIABLE) or ("quick" if quick else "full" if full else "bench")
    if scale not in SCALES:
        raise click.UsageError(f"{SCALE_VARIABLE}={scale}: one of {', '.join(SCALES)}")
    published = _published(against)
    if directory is not None:
        _check_writable(directory)
    wanted = [name for name in AREAS if name in areas] or list(AREAS)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as nohup has it
            signal.signal(number, _interrupted)
    found = form.as_published(suite.run(SCALES[scale], wanted, say, guest_kernel=guest_kernel))
    try:
        if directory is not None:
            write(found, directory)
    finally:  # what took minutes is shown, whatever became of the page
        if as_json:
            click.echo(form.to_json(found), nl=False)
        else:
            show(found, published)
    failed = [area.name for area in found.areas if area.failed]
    if failed:
        raise click.ClickException(f"could not be measured: {', '.join(failed)}")


def _interrupted(number: int, _frame: object) -> None:
    """SIGTERM, and SIGHUP when the terminal goes, end a run as Ctrl-C does: cleanly."""
    raise KeyboardInterrupt(signal.Signals(number).name)


def _published(path: Path | None) -> Results | None:
    """What to compare with: the given file, which must be good; else what the package has, if anything."""
    from guestmemfs_fuse.bench import results as form
    from guestmemfs_fuse.core.errors import UsageError

    if path is not None:
        try:
            return form.from_json(path.read_text())
        except (UsageError, UnicodeDecodeError) as error:
            reason = "not text" if isinstance(error, UnicodeDecodeError) else error
            raise click.UsageError(f"--against {path}: {reason}") from error
    shipped = resources.files("guestmemfs_fuse.bench") / "published.json"
    found = form.from_json(shipped.read_text())
    return found if found.areas else None


def _check_writable(directory: Path) -> None:
    """Better known before the minutes of a run than after. Bytes too: a mount of ours takes none."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
            file.write(b"\n")
    except OSError as error:
        raise click.UsageError(f"--out {directory}: cannot be written to: {error.strerror}") from error


def write(found: Results, directory: Path) -> None:
    """results.json, README.md and the plots; what is there of an earlier run is replaced."""
    from guestmemfs_fuse.bench import page, plots
    from guestmemfs_fuse.bench import results as form

    directory.mkdir(parents=True, exist_ok=True)
    (directory / "results.json").write_text(form.to_json(found))
    drawn: list[str] = []
    if plots.available():
        drawn = plots.draw(found, directory)
    else:
        say("no matplotlib, so no plots: pip install 'guestmemfs-fuse[bench]'")
    for name in set(AREAS).difference(drawn):
        (directory / f"{name}.svg").unlink(missing_ok=True)  # of figures that are no longer there
    (directory / "README.md").write_text(page.markdown(found, drawn))
    say(f"written: {directory}/README.md")


def show(found: Results, published: Results | None) -> None:
    """Tables of ours: figure, cost ratio, target; and what was published, where it is."""
    from guestmemfs_fuse.bench import text
    from guestmemfs_fuse.bench.results import OURS, pairs

    others = {}
    if published is not None:
        others = {(area.name, row.metric, row.x): other for area, row, other in pairs(found, published)}
    for area in found.areas:
        rows = []
        for row in area.rows:
            if OURS not in row.figures:
                continue
            other = others.get((area.name, row.metric, row.x))
            ratios = row.ratios or {}
            cells = [row.title, text.figure(row.figures[OURS].median, row.unit)]
            cells.append(f"{text.digits(ratios[OURS].median)}x {row.control}" if OURS in ratios else "")
            cells.append(_of(other))
            cells.append({True: "met", False: "not met", None: ""}[row.met])
            rows.append(cells)
        click.echo()
        result(f"{area.title}" + (f": not measured: {area.failed}" if area.failed else ""))
        if rows:
            table(("", "here", "cost", "published", "target"), rows, right=("here",))
        for reason in area.left_out:
            result(f"  left out: {reason}")
    if published is not None:
        click.echo()
        result(f"here: {text.machine(found)}")
        result(f"published: {text.machine(published)}")
    else:
        say("nothing was published to compare with; --against FILE names another run's JSON")


def _of(other: object) -> str:
    """The published figure and ratio of a row."""
    from guestmemfs_fuse.bench import text
    from guestmemfs_fuse.bench.results import OURS, Row

    if not isinstance(other, Row) or OURS not in other.figures:
        return ""
    shown = text.figure(other.figures[OURS].median, other.unit)
    if other.ratios and OURS in other.ratios:
        shown += f", {text.digits(other.ratios[OURS].median)}x"
    return shown
