"""`guestmemfs status`: one instance, from its daemon or, when it is stopped, from what it left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from guestmemfs_fuse.cli import host
from guestmemfs_fuse.cli.output import file_label, print_json, result, say, table
from guestmemfs_fuse.cli.sizes import size_text

if TYPE_CHECKING:
    from guestmemfs_fuse.cli.survey import Finding

_EXAMPLES = """\b
Examples:
  guestmemfs status /mnt/guests
  guestmemfs status mnt-guests --json | jq .huge.fraction
"""


@click.command(epilog=_EXAMPLES)
@click.argument("target")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def status(target: str, as_json: bool) -> None:
    """Show one instance: state, use of its region, huge-page coverage, files and who uses them.

    Coverage and users are what the kernel reports now. For a stopped instance the metadata is read; of a
    daemon that was given up the last words are shown.
    """
    host.require_root()
    from guestmemfs_fuse.cli import survey
    from guestmemfs_fuse.cli.daemons import RESTART_WAIT_S
    from guestmemfs_fuse.metadata.instance import find

    found = survey.examine(find(target), wait_s=RESTART_WAIT_S)
    shown = _report(found)
    if as_json:
        print_json(shown)
        return
    _print(shown)


def _report(found: Finding) -> dict[str, Any]:
    """The documented JSON object."""
    from guestmemfs_fuse.cli import daemons
    from guestmemfs_fuse.cli.sight import Condition
    from guestmemfs_fuse.core.errors import DaemonError, GuestmemfsError
    from guestmemfs_fuse.metadata.instance_config import REPLACES

    instance, words = found.instance, found.seen.last_words
    if found.condition is Condition.SILENT:
        raise DaemonError("the daemon does not answer", hint=f"`guestmemfs restart {instance.name}`")
    if found.condition is Condition.LOST:
        raise GuestmemfsError(f"instance {instance.name} has no memory any more", hint=found.advice)
    if found.pong is not None:
        shown = daemons.ask(instance, "status", wait_s=daemons.RESTART_WAIT_S)
    else:
        shown = _offline(found)
    shown["condition"] = found.condition.value
    shown["replaces"] = instance.config.options.get(REPLACES)
    shown["state_dir"] = instance.paths.state_dir
    shown["last_words"] = str(words).rstrip() if words is not None else None
    shown["advice"] = found.advice
    return shown


def _offline(found: Finding) -> dict[str, Any]:
    from guestmemfs_fuse.cli import offline

    config = found.instance.config
    with offline.opened(found.instance) as there:
        return {
            "name": found.instance.name,
            "mountpoint": config.mountpoint,
            "state": found.state,
            "daemon_pid": None,
            "holder_pid": found.seen.holder_pid,
            "generation": there.state.generation,
            "read_only": None,
            **offline.whole_report(there),
            "counters": {},
            "journal": {},
        }


def _print(shown: dict[str, Any]) -> None:
    region = shown["region"]
    for label, text in (
        ("instance", shown["name"]),
        ("state", f"{shown['condition']}{_writable(shown)}, generation {shown['generation']}"),
        ("mountpoint", shown["mountpoint"]),
        ("daemon", f"pid {shown['daemon_pid'] or '-'}, holder pid {shown['holder_pid'] or '-'}"),
        (
            "region",
            f"{region['kind']} {size_text(region['size_bytes'])}: {size_text(region['used_bytes'])} used, "
            f"{size_text(region['free_bytes'])} free, blocks of {size_text(region['block_bytes'])}",
        ),
        ("huge pages", _coverage(shown["huge"])),
        *_pool(region.get("hugetlb")),
        *_replaces(shown["replaces"]),
    ):
        result(f"{label:<12}{text}")
    if shown["files"]:
        result("")
        columns = ("PATH", "SIZE", "ALLOCATED", "HUGE", "OPEN", "MAPPED BY")
        table(columns, [_file(row) for row in shown["files"]], right=columns[1:5])
    for row in shown["files"]:
        if lost_bytes := sum(each["length_bytes"] for each in row.get("poisoned", [])):
            where = row["path"] or f"inode {row['ino']}"
            say(f"warning: {size_text(lost_bytes)} of {where} are lost to memory errors (`guestmemfs map`)")
    if shown["last_words"]:
        say("the daemon was given up; its last words:")
        for line in shown["last_words"].splitlines():
            say(f"  {line}")
    if shown["advice"]:
        say(f"note: {shown['advice']}")


def _pool(hugetlb: dict[str, Any] | None) -> list[tuple[str, str]]:
    if hugetlb is None:
        return []
    largest, scattered = size_text(hugetlb["largest_run_bytes"]), f"{hugetlb['fragmentation']:.0%}"
    lines = [("free", f"{largest} in one piece, {scattered} outside of it")]
    if (pool := hugetlb["pool"]) is not None:
        saves = {None: "unknown here", True: "on", False: "off"}[hugetlb["hvo"]]
        pages = f"{pool['total']} pages of {size_text(hugetlb['page_bytes'])}"
        lines.append(("pool", f"{pages}, {pool['free']} free, {pool['reserved']} reserved; HVO {saves}"))
    return lines


def _replaces(lost: dict[str, Any] | None) -> list[tuple[str, str]]:
    if lost is None:
        return []
    return [
        ("began", f"empty: the {lost['kind']} region before it ({size_text(lost['size_bytes'])}) is gone")
    ]


def _writable(shown: dict[str, Any]) -> str:
    reason = shown.get("read_only")  # daemons that were started before the update do not say
    return f", READ-ONLY ({reason}; `guestmemfs restart {shown['name']}` tries again)" if reason else ""


def _coverage(huge: dict[str, Any]) -> str:
    if huge["fraction"] is None:
        return "not measured while stopped"
    if not huge["bytes"] and huge["fraction"] == 1.0:
        return "nothing is allocated"
    return f"{size_text(huge['bytes'])} ({huge['fraction']:.1%} of what is allocated)"


def _file(row: dict[str, Any]) -> tuple[str, ...]:
    users = ", ".join(f"{user['comm']}[{user['pid']}]" for user in row["mapped_by"])
    marks = (" pinned" if row["pinned"] else "") + (" saved" if row["saved_guest"] else "")
    return (
        file_label(row) + marks,
        size_text(row["size_bytes"]),
        _measured(row["allocated_bytes"], size_text),
        _measured(row["huge_fraction"], "{:.0%}".format),
        _measured(row["open_count"], str),
        users or "-",
    )


def _measured(value: Any, show: Any) -> str:
    return "?" if value is None else str(show(value))
