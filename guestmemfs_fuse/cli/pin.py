"""`guestmemfs pin` and `unpin`."""

from __future__ import annotations

import click

from guestmemfs_fuse.cli import host

_PIN_EXAMPLES = """\b
Examples:
  guestmemfs pin /mnt/guests/vm1
"""
_UNPIN_EXAMPLES = """\b
Examples:
  guestmemfs unpin /mnt/guests/vm1
"""


@click.command(epilog=_PIN_EXAMPLES)
@click.argument("path")
def pin(path: str) -> None:
    """Keep the file PATH: until `unpin`, removing, replacing or shrinking it fails with EBUSY."""
    _set_pinned(path, True)


@click.command(epilog=_UNPIN_EXAMPLES)
@click.argument("path")
def unpin(path: str) -> None:
    """Let the file PATH be removed, replaced and shrunk again."""
    _set_pinned(path, False)


def _set_pinned(path: str, pinned: bool) -> None:
    host.require_root()
    from guestmemfs_fuse.cli import daemons
    from guestmemfs_fuse.core.errors import InvalidCallError, IsDirectoryError, UsageError
    from guestmemfs_fuse.metadata.instance import instance_of_path

    instance, inside = instance_of_path(path)
    args = {"path": "/" + inside, "pinned": pinned}
    try:
        daemons.ask(instance, "pin", args, wait_s=daemons.RESTART_WAIT_S)
    except IsDirectoryError as error:
        raise UsageError(f"{path} is a directory", hint="only files are pinned") from error
    except InvalidCallError as error:
        raise UsageError(f"{path} is no regular file", hint="only regular files have memory") from error
