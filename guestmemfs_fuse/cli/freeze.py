"""`guestmemfs freeze` and `thaw`: the serialised state of the guestmemfs kernel series."""

from __future__ import annotations

import click

from guestmemfs_fuse.cli import host

_FREEZE_EXAMPLES = """\b
Examples:
  guestmemfs freeze /mnt/guests
"""
_THAW_EXAMPLES = """\b
Examples:
  guestmemfs thaw /mnt/guests
"""


@click.command(epilog=_FREEZE_EXAMPLES)
@click.argument("target")
def freeze(target: str) -> None:
    """Refuse every modification of TARGET with EBUSY; lookups, opens and mmap go on.

    Returns once nothing changes any more; calls that had begun are finished first. Survives restarts and
    unmounting, until `thaw`.
    """
    _ask(target, "freeze")


@click.command(epilog=_THAW_EXAMPLES)
@click.argument("target")
def thaw(target: str) -> None:
    """Allow modifications of TARGET again."""
    _ask(target, "thaw")


def _ask(target: str, op: str) -> None:
    host.require_root()
    from guestmemfs_fuse.cli import daemons
    from guestmemfs_fuse.metadata.instance import find

    # Draining waits for allocations under way, which may take long: no limit, Ctrl-C gives up waiting.
    daemons.ask_without_limit(find(target), op)
