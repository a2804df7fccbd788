"""`guestmemfs resize-file`: truncate(2) with the last word."""

from __future__ import annotations

import click

from guestmemfs_fuse.cli import host
from guestmemfs_fuse.cli.sizes import size_or_zero_argument

_EXAMPLES = """\b
Examples:
  guestmemfs resize-file /mnt/guests/vm1 --size 2G
  guestmemfs resize-file /mnt/guests/vm1 --size 2G --force
"""


@click.command("resize-file", epilog=_EXAMPLES)
@click.argument("path")
@click.option("--size", type=size_or_zero_argument, metavar="SIZE", required=True, help="The new size.")
@click.option(
    "--force", is_flag=True, help="Also cut what is pinned or mapped: who touches it dies by SIGBUS."
)
def resize_file(path: str, size: int, force: bool) -> None:
    """Set the size of the file PATH, as truncate(1) does; with --force also where the mount refuses.

    Shrinking a file that a process maps would kill that process, so truncate fails with EBUSY, and so does
    this without --force (exit code 1).
    """
    host.require_root()
    from guestmemfs_fuse.cli import daemons, progress
    from guestmemfs_fuse.metadata.instance import instance_of_path

    instance, inside = instance_of_path(path)
    args = {"path": "/" + inside, "size_bytes": size, "force": force}
    with progress.bar("allocating", "bytes") as tick:
        daemons.ask_without_limit(instance, "resize_file", args, on_event=progress.on_event(tick))
