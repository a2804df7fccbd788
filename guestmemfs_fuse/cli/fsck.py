"""`guestmemfs fsck`: metadata against the region, of a served instance through its daemon.

Exit codes are fsck(8)'s and this command's own: 0 clean, 1 repaired, 4 errors left, 8 operational error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from guestmemfs_fuse.cli import host
from guestmemfs_fuse.cli.output import print_json, result, say

if TYPE_CHECKING:
    from guestmemfs_fuse.cli.checking import Report

CLEAN, REPAIRED, ERRORS_LEFT, OPERATIONAL = 0, 1, 4, 8

_EXAMPLES = """\b
Examples:
  guestmemfs fsck /mnt/guests
  guestmemfs fsck mnt-guests --repair --json

\b
Exit codes:
  0  clean
  1  there were problems, all are repaired
  4  problems are left
  8  it could not be checked (no such instance, no memory any more, busy, not root)
"""


@click.command(epilog=_EXAMPLES)
@click.argument("target")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option("--repair", is_flag=True, help="Mend what was found; nothing that holds data is removed.")
@click.pass_context
def fsck(ctx: click.Context, target: str, as_json: bool, repair: bool) -> None:
    """Check the metadata of TARGET in itself and against the region.

    A mounted instance is checked by its daemon while it serves; a stopped one (umount it first for the
    most thorough repair) is read from its files. Memory without a file is given one in /lost+found.
    """
    report = _checked(target, repair=repair)
    if as_json:
        print_json(report.plain)
    else:
        _print(report)
    ctx.exit(_exit_code(report))


def _checked(target: str, *, repair: bool) -> Report:
    """Whatever keeps us from checking is an operational error, with the usual words."""
    from guestmemfs_fuse.core.errors import DaemonError, ExitCode, GuestmemfsError

    try:
        host.require_root()
        from guestmemfs_fuse.cli import checking

        return checking.check(target, repair=repair)
    except GuestmemfsError as error:
        error.exit_code = ExitCode(OPERATIONAL)
        raise
    except OSError as error:
        raise DaemonError(f"{error.filename or 'fsck'}: {error.strerror}") from error


def _exit_code(report: Report) -> int:
    problems = report.plain["problems"]
    if not problems:
        return CLEAN
    return REPAIRED if all(problem["repaired"] for problem in problems) else ERRORS_LEFT


def _print(report: Report) -> None:
    plain = report.plain
    for problem in plain["problems"]:
        result(_line(problem))
    checked = plain["checked"]
    backings = "region not reached" if checked["backings"] is None else f"{checked['backings']} backings"
    looked_at = f"{checked['inodes']} inodes, {checked['names']} names, {backings}"
    verdict = ("clean", "repaired", "problems are left")[min(2, _exit_code(report))]
    result(f"{plain['name']}: {verdict} ({plain['mode']}: {looked_at})")
    for note in plain["notes"]:
        say(f"note: {note}")
    if _exit_code(report) == ERRORS_LEFT and report.advice:
        say(f"hint: {report.advice}")


def _line(problem: dict[str, Any]) -> str:
    where = f" inode {problem['ino']}" if problem["ino"] is not None else ""
    done = " [repaired]" if problem["repaired"] else ""
    return f"{problem['kind']}{where}: {problem['detail']}{done}"
