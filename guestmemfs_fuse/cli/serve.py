"""`guestmemfs serve`: what the unit guestmemfs@NAME.service starts and stops."""

from __future__ import annotations

import os

import click

from guestmemfs_fuse.cli import host

_EXAMPLES = """\b
Examples:
  systemctl start guestmemfs@guests
  guestmemfs serve guests
"""


@click.command(epilog=_EXAMPLES)
@click.argument("name")
@click.option(
    "--stop",
    is_flag=True,
    help="Unmount instead, unless systemd restarts the unit (its ExecStop=).",
)
@click.option(
    "--stopped",
    is_flag=True,
    help="Unmount what a stop has left mounted (its ExecStopPost=).",
)
def serve(name: str, stop: bool, stopped: bool) -> None:
    """Become the daemon of instance NAME, as /etc/guestmemfs/NAME.toml says; for systemd.

    NAME may also be the path of such a file. A mount whose connection systemd kept is taken over as it is,
    whatever the file says by now; otherwise the instance is mounted, its mountpoint made if need be.
    """
    host.require_root()
    if stop:
        from guestmemfs_fuse.cli.unit_stop import stop_unit

        stop_unit(name, os.environ)
        return
    if stopped:
        from guestmemfs_fuse.cli.unit_stop import clean_up

        clean_up(name)
        return
    host.require_fuse()
    from guestmemfs_fuse.cli.unit_start import start_unit

    start_unit(name, os.environ)
