"""`guestmemfs restart`: new code under a live mount."""

from __future__ import annotations

import click

from guestmemfs_fuse.cli import host
from guestmemfs_fuse.cli.output import result

_EXAMPLES = """\b
Examples:
  pip install --upgrade guestmemfs-fuse && guestmemfs restart /mnt/guests
"""


@click.command(epilog=_EXAMPLES)
@click.argument("target")
def restart(target: str) -> None:
    """Replace TARGET's daemon by a new process, with the code that is installed now.

    The mount stays, open files stay valid, mapped memory is not touched; calls on the mount wait for a
    moment. When the new daemon cannot start, the old one goes on. A daemon that does not answer is killed,
    and its holder (or systemd) starts the next.
    """
    host.require_root()
    from guestmemfs_fuse.cli.claim import claimed_instance
    from guestmemfs_fuse.cli.restarting import restart_daemon
    from guestmemfs_fuse.metadata.instance import find

    instance = find(target)
    with claimed_instance(instance):
        done = restart_daemon(instance)
    old = "a daemon that is gone" if done.old_pid is None else f"pid {done.old_pid}"
    if done.old_generation is not None:
        old += f" (generation {done.old_generation})"
    text = (
        f"instance {instance.name}: {old} replaced by pid {done.new.pid} (generation {done.new.generation})"
    )
    if done.new.stall_ns is not None:
        text += f", calls waited at most {done.new.stall_ns / 1e6:.1f} ms"
    result(text)
