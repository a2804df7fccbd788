"""Waiting until an instance neither comes up nor goes down.

A start outlives the command that asked for it: after `mount` was killed, its holder goes on and the daemon
mounts a moment later. Whoever takes an instance away may meet it in every phase of that: a holder without a
daemon, a daemon without the lock, with the lock but without a mount, mounted but not serving yet. Called by
`umount` and `destroy`, with the instance claimed: nobody starts anything new meanwhile.
"""

from __future__ import annotations

import os

from guestmemfs_fuse.cli import sight
from guestmemfs_fuse.linux import process
from guestmemfs_fuse.linux.patience import patient
from guestmemfs_fuse.metadata.instance import Instance

SETTLES_WITHIN_S = patient(20.0)


def settled(instance: Instance, timeout_s: float | None = None) -> sight.Sight:
    """Look at it once it is mounted or has no daemon; as it is after timeout_s seconds if it never is.

    timeout_s: SETTLES_WITHIN_S unless given.
    """
    seen = sight.look(instance)

    def holds() -> bool:
        nonlocal seen
        seen = sight.look(instance)
        return is_settled(instance, seen)

    if not is_settled(instance, seen):
        sight.wait_until(holds, SETTLES_WITHIN_S if timeout_s is None else timeout_s)
    return seen


def is_settled(instance: Instance, seen: sight.Sight) -> bool:
    """Whether what was seen lasts. Mounted does, whoever serves it; without a mount no daemon may be left."""
    if seen.mount is not None:
        return True
    return not seen.has_daemon and (seen.holder_pid is None or _keeps_only(instance, seen.holder_pid))


def _keeps_only(instance: Instance, holder_pid: int) -> bool:
    """Whether the holder is there for a stopped memfd region: then it listens, and has no child.

    Every other holder without a mount is about to start its daemon, has one that starts, or ends.
    """
    return (
        instance.config.kind == "memfd"
        and os.path.exists(instance.paths.notify_sock)
        and not process.children(holder_pid)
    )
