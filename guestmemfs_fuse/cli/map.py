"""`guestmemfs map`: where one file's memory is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from guestmemfs_fuse.cli import host
from guestmemfs_fuse.cli.output import print_json, result, table
from guestmemfs_fuse.cli.sizes import size_text

if TYPE_CHECKING:
    from guestmemfs_fuse.cli.survey import Finding

_EXAMPLES = """\b
Examples:
  guestmemfs map /mnt/guests/vm1
  guestmemfs map /mnt/guests/vm1 --json
  qemu-system-x86_64 $(guestmemfs map /mnt/huge/vm1 --qemu) -machine q35,memory-backend=ram0 -m 4G
  guestmemfs map /mnt/guests --svg region.svg
"""


@click.command("map", epilog=_EXAMPLES)
@click.argument("path")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--svg", "svg_path", metavar="FILE", help="Write the picture of a whole region to FILE, - for stdout."
)
@click.option("--qemu", is_flag=True, help="Print the option with which QEMU maps the file without `run`.")
def map_file(path: str, as_json: bool, svg_path: str | None, qemu: bool) -> None:
    """Show the file PATH: its extents, huge-page coverage and which processes map it.

    Works for a stopped instance too: PATH is where the file would be. For a mountpoint or the name of an
    instance, the whole region is drawn: which blocks are whose, what is free, holes, and memory errors.
    """
    host.require_root()
    from guestmemfs_fuse.cli import survey
    from guestmemfs_fuse.cli.daemons import RESTART_WAIT_S
    from guestmemfs_fuse.metadata.instance import find, instance_of_path

    instance, inside = (find(path), "") if _is_name(path) else instance_of_path(path)
    if qemu and (as_json or svg_path is not None or not inside):
        raise click.UsageError("--qemu prints one line for one file")
    if as_json and svg_path is not None:
        raise click.UsageError("either --json or --svg")
    if not inside:
        from guestmemfs_fuse.cli.map_region import show_region

        found = survey.examine(instance, wait_s=RESTART_WAIT_S)
        show_region(found, as_json=as_json, svg_path=svg_path)
        return
    if qemu:
        from guestmemfs_fuse.cli.qemu_option import memory_option

        result(" ".join(memory_option(instance, inside)))
        return
    if svg_path is not None:
        raise click.UsageError("--svg draws a whole region: give a mountpoint or a name")
    shown = _ask(survey.examine(instance, wait_s=RESTART_WAIT_S), inside)
    if as_json:
        print_json(shown)
        return
    _print(shown)


def _is_name(path: str) -> bool:
    """Whether PATH is an instance's name rather than a file of the current directory."""
    from guestmemfs_fuse.metadata.instance import all_instances

    return "/" not in path and any(each.name == path for each in all_instances())


def _ask(found: Finding, inside: str) -> dict[str, Any]:
    from guestmemfs_fuse.cli import daemons
    from guestmemfs_fuse.core.errors import GuestmemfsError

    if found.pong is not None:
        return daemons.ask(found.instance, "map", {"path": "/" + inside}, wait_s=daemons.RESTART_WAIT_S)
    from guestmemfs_fuse.cli import offline
    from guestmemfs_fuse.cli.sight import Condition
    from guestmemfs_fuse.engine import report

    if found.condition in (Condition.LOST, Condition.SILENT):
        raise GuestmemfsError(f"instance {found.instance.name} cannot be asked", hint=found.advice)
    with offline.opened(found.instance) as there:
        if there.region is None:
            raise GuestmemfsError(
                f"a stopped {found.instance.config.kind} region cannot be looked into",
                hint=f"`guestmemfs mount {found.instance.config.mountpoint}` first",
            )
        return report.one_file(there.state, there.region, "/" + inside, served=False)


def _print(shown: dict[str, Any]) -> None:
    for label, text in (
        ("file", f"{shown['path'] or '/'}, inode {shown['ino']}{', pinned' if shown['pinned'] else ''}"),
        ("size", f"{size_text(shown['size_bytes'])}, {size_text(shown['allocated_bytes'])} allocated"),
        ("huge pages", f"{size_text(shown['huge_bytes'])} ({shown['huge_fraction']:.1%})"),
        ("saved guest", shown["saved_guest"]),
        ("errors", _errors(shown.get("poisoned", []))),
        ("open", f"{shown['open_count']} descriptors"),
        ("mapped by", _users(shown["mapped_by"])),
    ):
        if text is not None:
            result(f"{label:<12}{text}")
    if shown["extents"]:
        result("")
        columns = ("OFFSET", "LENGTH", "IN REGION")
        table(columns, [_extent(row) for row in shown["extents"]], right=columns)


def _errors(poisoned: list[dict[str, Any]]) -> str | None:
    """Where the memory is lost: whoever touches it gets SIGBUS."""
    where = ", ".join(f"{row['length_bytes']} bytes at {row['offset_bytes']:#x}" for row in poisoned)
    return f"memory lost: {where}" if where else None


def _users(users: list[dict[str, Any]]) -> str:
    return (
        ", ".join(f"{user['comm']}[{user['pid']}] {size_text(user['bytes'])}" for user in users) or "nobody"
    )


def _extent(row: dict[str, Any]) -> tuple[str, ...]:
    there = row["region_offset_bytes"]
    return (
        size_text(row["offset_bytes"]),
        size_text(row["length_bytes"]),
        "own file" if there is None else size_text(there),
    )
