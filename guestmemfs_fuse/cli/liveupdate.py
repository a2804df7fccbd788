"""`guestmemfs liveupdate`: carry a memfd region across kexec with the kernel's live update orchestrator."""

from __future__ import annotations

import click

from guestmemfs_fuse.cli import host
from guestmemfs_fuse.cli.output import print_json, result
from guestmemfs_fuse.core.errors import UnknownTargetError

_EXAMPLES = """\b
Examples:
  guestmemfs liveupdate preserve guests && kexec -s -l ... && kexec -e
  guestmemfs liveupdate preserve guests --abort
  guestmemfs liveupdate retrieve guests
"""


@click.group("liveupdate", epilog=_EXAMPLES)
def liveupdate() -> None:
    """Carry a memfd region across kexec with /dev/liveupdate (Linux 6.19 and later)."""


@liveupdate.command()
@click.argument("target")
@click.option("--abort", is_flag=True, help="Undo it: let go of the session and thaw.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def preserve(target: str, abort: bool, as_json: bool) -> None:
    """Freeze TARGET and hand its files and metadata to the kernel, for the next kexec.

    Guests that still run go on running and storing until the kexec; save them first. The kexec must be
    direct (kexec -e): what ends all processes first also ends the session.
    """
    host.require_root()
    from guestmemfs_fuse.cli import daemons
    from guestmemfs_fuse.metadata.instance import find

    instance = find(target)
    # Holes are filled and all memory is pinned: no limit, Ctrl-C gives up waiting.
    done = daemons.ask(instance, "preserve", {"abort": abort}, wait_s=daemons.RESTART_WAIT_S, timeout_s=None)
    if as_json:
        print_json(done)
    elif abort:
        result(f"instance {instance.name} is not preserved any more")
    else:
        took = f"{done['took_ms']:.1f} ms"
        result(f"instance {instance.name} is in session {done['session']}: {done['files']} files, {took}")


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
