"""`guestmemfs resize`: a bigger or smaller region under a live mount."""

from __future__ import annotations

import click

from guestmemfs_fuse.cli import host
from guestmemfs_fuse.cli.output import result
from guestmemfs_fuse.cli.sizes import exact_size, size_argument

_EXAMPLES = """\b
Examples:
  guestmemfs resize /mnt/guests --size 96G
"""


@click.command(epilog=_EXAMPLES)
@click.argument("target")
@click.option("--size", type=size_argument, required=True, metavar="SIZE", help="The new size.")
def resize(target: str, size: int) -> None:
    """Grow or shrink TARGET's region while it is mounted; files and guests do not notice.

    Refused below what is in use (exit code 5) and beyond what the host has (7). A hugetlb region keeps
    the size it was made with.
    """
    host.require_root()
    from guestmemfs_fuse.cli import resizing
    from guestmemfs_fuse.cli.claim import claimed_instance
    from guestmemfs_fuse.metadata.instance import find

    instance = find(target)
    with claimed_instance(instance):
        done = resizing.resize(instance, size)
    result(f"instance {instance.name}: {exact_size(done.old_bytes)} is now {exact_size(done.new_bytes)}")
