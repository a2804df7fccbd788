"""`guestmemfs umount`: the mount goes, the memory stays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from guestmemfs_fuse.cli import host
from guestmemfs_fuse.cli.output import result, say

if TYPE_CHECKING:
    from guestmemfs_fuse.metadata.instance import Instance

_EXAMPLES = """\b
Examples:
  guestmemfs umount /mnt/guests
  guestmemfs umount mnt-guests
"""


@click.command(epilog=_EXAMPLES)
@click.argument("target")
def umount(target: str) -> None:
    """Unmount TARGET and stop its daemon; region and metadata stay until `destroy`.

    Refused (exit code 5) while a process maps or has open a file of it, or works in it: it says which. A dead
    mount (daemon and holder were killed) is detached. What is not mounted is an error (exit code 1).
    """
    host.require_root()
    from guestmemfs_fuse.cli import settling, sight
    from guestmemfs_fuse.cli.claim import claimed_instance
    from guestmemfs_fuse.cli.unmounting import unmount
    from guestmemfs_fuse.core.errors import GuestmemfsError
    from guestmemfs_fuse.metadata.instance import find

    instance = find(target)
    with claimed_instance(instance):
        seen = sight.look(instance)
        was_under_way = not settling.is_settled(instance, seen)
        if was_under_way:
            seen = settling.settled(instance)
        if seen.mount is None:
            if was_under_way and settling.is_settled(instance, seen):
                result(f"instance {instance.name} is unmounted")  # by somebody else, just now
                return
            raise GuestmemfsError(
                f"instance {instance.name} is not mounted",
                hint=f"`guestmemfs status {instance.name}` shows it",
            )
        if seen.has_daemon and seen.holder_pid is None and instance.config.kind == "memfd":
            _require_kept(instance)
        unmount(instance, seen)
        if seen.condition is sight.Condition.DEAD_MOUNT:
            say(f"note: {instance.config.mountpoint} was a dead mount: detached")
    result(f"instance {instance.name} is unmounted; its region stays until `guestmemfs destroy`")


def _require_kept(instance: Instance) -> None:
    """Raises GuestmemfsError when the memory would go with the daemon (DaemonError: it does not say)."""
    from guestmemfs_fuse.cli import daemons
    from guestmemfs_fuse.core.errors import GuestmemfsError

    if daemons.ping(instance, timeout_s=5.0, wait_s=5.0).is_abandoned:
        raise GuestmemfsError(
            f"unmounting {instance.name} would lose its memory: its holder was killed",
            hint=f"`guestmemfs restart {instance.name}` starts another; `destroy --yes` gives the memory up",
        )
