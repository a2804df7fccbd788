"""`guestmemfs top`: what goes on in one instance, again every few seconds."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from guestmemfs_fuse.cli import host
from guestmemfs_fuse.cli.output import printable
from guestmemfs_fuse.cli.seconds import Seconds

if TYPE_CHECKING:
    from guestmemfs_fuse.metadata.instance import Instance

_EXAMPLES = """\b
Examples:
  guestmemfs top /mnt/guests
  guestmemfs top guests --interval 1 --count 10
"""


@click.command(epilog=_EXAMPLES)
@click.argument("target")
@click.option(
    "--interval",
    type=Seconds(0.1),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="Time between two looks.",
)
@click.option("--count", type=click.IntRange(1), metavar="N", help="Stop after N looks.")
def top(target: str, interval: float, count: int | None) -> None:
    """Watch TARGET: use of its region, requests per second with their latency, and who maps what.

    On a terminal the screen is drawn anew each time, Ctrl-C ends it; elsewhere looks follow each other. Goes
    on when the daemon is replaced: a new one's counters begin at zero.
    """
    host.require_root()
    from guestmemfs_fuse.cli.top_view import view
    from guestmemfs_fuse.metadata.instance import find

    instance = find(target)
    before = _look(instance)
    looks = 0
    while count is None or looks < count:
        time.sleep(interval)
        now = _look(instance)
        lines = [printable(line) for line in view(before[1], now[1], now[0] - before[0])]
        if sys.stdout.isatty():
            click.echo("\x1b[H\x1b[2J" + "\n".join(lines))
        else:
            click.echo("\n".join([*lines, ""]))
        before, looks = now, looks + 1


def _look(instance: Instance) -> tuple[float, dict[str, Any]]:
    from guestmemfs_fuse.cli import daemons

    status = daemons.ask(instance, "status", wait_s=daemons.RESTART_WAIT_S)
    return time.monotonic(), status
