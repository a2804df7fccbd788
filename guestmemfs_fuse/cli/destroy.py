"""`guestmemfs destroy`: the only command that lets go of memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from guestmemfs_fuse.cli import host
from guestmemfs_fuse.cli.output import result, say

if TYPE_CHECKING:
    from guestmemfs_fuse.metadata.instance import Instance

_EXAMPLES = """\b
Examples:
  guestmemfs destroy /mnt/guests --yes
"""


@click.command(epilog=_EXAMPLES)
@click.argument("target")
@click.option("--yes", is_flag=True, help="Really do it. Without this nothing happens.")
@click.option("--force", is_flag=True, help="Also while processes map or have open files of it.")
def destroy(target: str, yes: bool, force: bool) -> None:
    """Unmount TARGET and give its memory back: all files are lost.

    Refused (exit code 5) while a process maps or has open a file of it; --force overrides that. What a
    process has mapped stays mapped and is given back when it ends.
    """
    host.require_root()
    from guestmemfs_fuse.cli import remembered, unit_state
    from guestmemfs_fuse.cli.claim import claimed_instance
    from guestmemfs_fuse.cli.destroying import destroy_instance, forget_broken
    from guestmemfs_fuse.cli.sizes import size_text
    from guestmemfs_fuse.core.errors import MetadataError, UnknownTargetError, UsageError
    from guestmemfs_fuse.metadata.instance import broken, find

    try:
        instance = find(target)
    except UnknownTargetError:
        if not (yes and remembered.forget(target)):
            raise
        if unit_state.keeps_memory(target) and unit_state.release_memory(target):
            result(f"instance {target} is gone, and what systemd carried of it through the kexec")
            return
        result(f"instance {target} is forgotten; its memory went with an earlier boot")
        return
    except MetadataError as problem:
        left = broken(target)
        if left is None or not (yes and force):
            problem.hint = f"{problem.hint}; `guestmemfs destroy {target} --yes --force` removes what is left"
            raise
        say(f"note: {problem.message}")
        from guestmemfs_fuse.cli import retrieving

        retrieving.give_up(left.paths)
        forget_broken(left)
        result(f"instance {target} is gone")
        return
    saved = _saved_guests(instance)
    if not yes:
        raise UsageError(
            f"this gives up all files of instance {instance.name} ({size_text(instance.config.size_bytes)})"
            + (f", and the guests saved in {saved}" if saved else ""),
            hint=f"`guestmemfs destroy {target} --yes` if that is meant",
        )
    with claimed_instance(instance):
        destroy_instance(instance, force=force)
        if instance.config.kind == "memfd" and not unit_state.release_memory(instance.name):
            unit = unit_state.unit_of(instance.name)
            say(f"warning: systemd still keeps its memory: `systemctl clean --what=fdstore {unit}`")
    remembered.forget(instance.name)
    if saved:
        say(f"note: the guests saved in {saved} cannot be restored any more")
    result(f"instance {instance.name} is gone, its memory given back")


def _saved_guests(instance: Instance) -> str:
    """Their files, for people; empty when there are none, or nobody can say."""
    from guestmemfs_fuse.cli import offline
    from guestmemfs_fuse.core.errors import MetadataError

    try:
        return ", ".join(path for path, _ in offline.saved_guests(instance))
    except (MetadataError, OSError):
        return ""
