"""`guestmemfs list`: every instance, and what to do about those that are not well."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from guestmemfs_fuse.cli import host
from guestmemfs_fuse.cli.output import print_json, say, table
from guestmemfs_fuse.cli.sizes import size_text

if TYPE_CHECKING:
    from guestmemfs_fuse.metadata.instance import BrokenInstance, Instance

_EXAMPLES = """\b
Examples:
  guestmemfs list
  guestmemfs list --json
"""


@click.command("list", epilog=_EXAMPLES)
@click.option("--json", "as_json", is_flag=True, help="Print a JSON array.")
def list_instances(as_json: bool) -> None:
    """Show all instances: serving, frozen, stopped, and those that need somebody.

    Mountpoints are not touched, so dead or hanging mounts do no harm.
    """
    host.require_root()
    from guestmemfs_fuse.metadata.instance import all_instances

    rows = [_row(each) for each in all_instances()]
    rows = sorted([*rows, *_forgotten({row["name"] for row in rows})], key=lambda row: str(row["name"]))
    if as_json:
        print_json(rows)
    elif rows:
        _print(rows)
    else:
        say("no instances; `guestmemfs mount MOUNTPOINT --size SIZE` makes one")


def _row(each: Instance | BrokenInstance) -> dict[str, Any]:
    from guestmemfs_fuse.cli import survey
    from guestmemfs_fuse.cli.sight import Condition
    from guestmemfs_fuse.metadata import instance

    if isinstance(each, instance.BrokenInstance):
        return {
            "name": each.name,
            "state": "stopped",
            "condition": Condition.BROKEN.value,
            "mountpoint": None,
            "region": None,
            "daemon_pid": None,
            "holder_pid": None,
            "generation": None,
            "state_dir": each.paths.state_dir,
            "advice": f"{each.problem.message}; {each.problem.hint} "
            f"(`guestmemfs destroy {each.name} --yes --force` removes what is left)",
        }
    found = survey.examine(each)
    config, pong = each.config, found.pong
    return {
        "name": each.name,
        "state": found.state,
        "condition": found.condition.value,
        "mountpoint": config.mountpoint,
        "region": {
            "kind": config.kind,
            "size_bytes": config.size_bytes,
            "block_bytes": config.block_bytes,
        },
        "daemon_pid": pong.pid if pong is not None else None,
        "holder_pid": found.seen.holder_pid,
        "generation": pong.generation if pong is not None else None,
        "state_dir": each.paths.state_dir,
        "advice": found.advice,
    }


def _forgotten(known: set[str]) -> list[dict[str, Any]]:
    """Units that nobody started since the host was booted: what they had is gone, or with systemd."""
    from guestmemfs_fuse.cli import remembered, unit_state
    from guestmemfs_fuse.cli.sight import Condition
    from guestmemfs_fuse.metadata.instance import current_boot_id, state_dir_of

    empty = dict.fromkeys(("region", "daemon_pid", "holder_pid", "generation"))
    rows = []
    for name, note in remembered.lost(known, current_boot_id()):
        is_carried = note.kind == "memfd" and unit_state.keeps_memory(name)
        what = f"its memory ({size_text(note.size_bytes)} {note.kind})"
        advice = (
            f"{what} came through the kexec with systemd: `systemctl start guestmemfs@{name}` brings it back"
            if is_carried
            else f"{what} is gone since the host was "
            f"booted: `systemctl start guestmemfs@{name}` starts empty, `destroy` forgets it"
        )
        rows.append(
            {
                "name": name,
                "state": "stopped",
                "condition": (Condition.STOPPED if is_carried else Condition.LOST).value,
                "mountpoint": note.mountpoint,
                **empty,
                "state_dir": state_dir_of(name),
                "advice": advice,
            }
        )
    return rows


def _print(rows: list[dict[str, Any]]) -> None:
    columns = ("NAME", "STATE", "REGION", "SIZE", "PID", "MOUNTPOINT")
    table(columns, [_cells(row) for row in rows], right=("SIZE", "PID"))
    for row in rows:
        if row["advice"]:
            say(f"{row['name']}: {row['advice']}")


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    region = row["region"] or {"kind": "-", "size_bytes": None}
    size = size_text(region["size_bytes"]) if region["size_bytes"] is not None else "-"
    pid = str(row["daemon_pid"] or "-")
    return (row["name"], row["condition"], region["kind"], size, pid, row["mountpoint"] or "-")
