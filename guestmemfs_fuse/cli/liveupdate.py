"""`guestmemfs liveupdate`: carry a memfd region across kexec with the kernel's live update orchestrator."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

from guestmemfs_fuse.cli import host
from guestmemfs_fuse.cli.output import print_json, result
from guestmemfs_fuse.core.errors import UnknownTargetError, UnsupportedError

if TYPE_CHECKING:
    from guestmemfs_fuse.metadata.instance import Instance

_EXAMPLES = """\b
Examples:
  guestmemfs liveupdate preserve guests && kexec -s -l ... && kexec -e
  guestmemfs liveupdate preserve guests --abort
  guestmemfs liveupdate retrieve guests
"""


@click.group("liveupdate", epilog=_EXAMPLES, no_args_is_help=False)
def liveupdate() -> None:
    """Carry a memfd region across kexec with /dev/liveupdate (Linux 6.19 and later)."""


@liveupdate.command()
@click.argument("target")
@click.option("--abort", is_flag=True, help="Undo it: let go of the session and thaw.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def preserve(target: str, abort: bool, as_json: bool) -> None:
    """Freeze TARGET and have its files and metadata carried by the next kexec.

    Guests that still run go on running and storing until the kexec; save them first. Without a unit the
    files are in a session of the kernel's from now on, and the kexec must be direct (kexec -e): what ends all
    processes first also ends the session. For a unit, systemd (261 and later) makes the session at the end of
    its shutdown: use `systemctl kexec`.
    """
    host.require_root()
    from guestmemfs_fuse.cli import daemons
    from guestmemfs_fuse.metadata.instance import find

    instance = find(target)
    # Holes are filled and all memory is pinned: no limit, Ctrl-C gives up waiting.
    by_store = not abort and _is_with_systemd(instance)
    args = {"abort": abort, "by_store": by_store}
    done = daemons.ask(instance, "preserve", args, wait_s=daemons.RESTART_WAIT_S, timeout_s=None)
    if as_json:
        print_json(done)
    elif abort:
        result(f"instance {instance.name} is not preserved any more")
    elif by_store:
        result(f"instance {instance.name} is frozen: `systemctl kexec` carries its {done['files']} files")
    else:
        took = f"{done['took_ms']:.1f} ms"
        result(f"instance {instance.name} is in session {done['session']}: {done['files']} files, {took}")


def _is_with_systemd(instance: Instance) -> bool:
    """Whether systemd is to carry it.

    Raises UnsupportedError when it keeps the descriptors and does not, DaemonError when nobody keeps them.
    """
    from guestmemfs_fuse.cli import daemons, unit_state
    from guestmemfs_fuse.core.errors import DaemonError
    from guestmemfs_fuse.handover.launch import holder_pid
    from guestmemfs_fuse.linux.liveupdate import DEVICE_PATH

    if instance.config.kind != "memfd" or holder_pid(instance.paths.state_dir) is not None:
        return False  # the daemon says what is wrong, if something is
    if daemons.ping(instance, timeout_s=5.0, wait_s=daemons.RESTART_WAIT_S).is_abandoned:
        raise DaemonError(
            f"the holder of instance {instance.name} was killed: nobody would keep the session",
            hint=f"`guestmemfs restart {instance.name}` starts another",
        )
    why_not = unit_state.why_not_carried(instance.name)
    if why_not is None and not os.path.exists(DEVICE_PATH):
        why_not = f"this kernel has no {DEVICE_PATH} (CONFIG_LIVEUPDATE, kho=on liveupdate=on)"
    if why_not is not None:
        raise UnsupportedError(
            f"systemd keeps the memory of instance {instance.name} and would not carry it: {why_not}",
            hint="`guestmemfs mount` without a unit carries it with a session of its own",
        )
    return True


@liveupdate.command()
@click.argument("name")
@click.option("--state-dir", metavar="DIR", help="Where its state is to be kept, as for `mount`.")
def retrieve(name: str, state_dir: str | None) -> None:
    """Bring instance NAME back after the kexec, unmounted; `guestmemfs mount` does this by itself."""
    host.require_root()
    from guestmemfs_fuse.cli.retrieving import retrieve_instance

    if not retrieve_instance(name, state_dir):
        raise UnknownTargetError(
            f"no live update session of instance {name}", hint="`guestmemfs list` shows what is here already"
        )
    result(f"instance {name} came through the kexec; `guestmemfs mount` mounts it")
