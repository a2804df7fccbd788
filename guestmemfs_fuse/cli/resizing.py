"""Another size for a region that is served. Called by `resize` and by a remount (mount_helper)."""

from __future__ import annotations

from dataclasses import dataclass

from guestmemfs_fuse.cli import daemons, progress
from guestmemfs_fuse.control.client import NotRunningError
from guestmemfs_fuse.core.errors import DaemonError
from guestmemfs_fuse.metadata.instance import Instance

_LONG_S = 120.0
"""An allocation under way is waited for."""


@dataclass(frozen=True, slots=True)
class Resized:
    """Sizes in bytes; the new one is rounded up to whole blocks."""

    old_bytes: int
    new_bytes: int


def resize(instance: Instance, size_bytes: int) -> Resized:
    """Have the daemon do it. Raises GuestmemfsError; then the size is as it was."""
    args = {"size_bytes": size_bytes}
    try:
        with progress.watched("waiting for an allocation under way", lambda: (0, 0)):
            answer = daemons.ask(instance, "resize", args, timeout_s=_LONG_S, wait_s=daemons.RESTART_WAIT_S)
    except NotRunningError as error:
        raise DaemonError(
            f"instance {instance.name} is not served",
            hint=f"`guestmemfs mount {instance.config.mountpoint}` first",
        ) from error
    return Resized(answer["old_bytes"], answer["new_bytes"])
