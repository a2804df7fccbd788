"""`guestmemfs vm`: live-update QEMU guests. Options in, cli/vm_work does the work, results out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guestmemfs_fuse.cli import host
from guestmemfs_fuse.cli.output import print_json, result, say, table
from guestmemfs_fuse.cli.sizes import size_text
from guestmemfs_fuse.core.errors import ExitCode, GuestmemfsError, UnknownTargetError, UsageError

if TYPE_CHECKING:
    from guestmemfs_fuse.cli.vm_work import Outcome
    from guestmemfs_fuse.metadata.instance import Instance

_EXAMPLES = """\b
Examples:
  guestmemfs vm save --qmp /run/vm1.qmp --state /var/lib/vm1.state
  guestmemfs vm restore --state /var/lib/vm1.state
  guestmemfs vm restore --state vm1.state -- /opt/qemu/bin/qemu-system-x86_64 -m 4G ...
  guestmemfs vm save --all /var/lib/saved && guestmemfs vm restore --all /var/lib/saved
  guestmemfs vm list
"""
_path = click.Path(path_type=Path)
_as_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")


@click.group("vm", epilog=_EXAMPLES, no_args_is_help=False)
def vm() -> None:
    """Save, restore and list QEMU guests whose RAM is on a mount.

    The guest's RAM stays where it is; only the state of its devices goes to a file. What was saved is
    marked: until it is restored or discarded nobody can open its RAM file (EBUSY).
    """


@vm.command()
@click.option("--qmp", "qmp_path", type=_path, metavar="SOCKET", help="The guest's QMP monitor.")
@click.option("--state", "state_path", type=_path, metavar="FILE", help="Where the device state goes.")
@click.option("--all", "directory", type=_path, metavar="DIR", help="Save every guest, into DIR.")
@click.option("--target", metavar="TARGET", help="Only a guest (with --all: guests) of this instance.")
@_as_json
def save(
    qmp_path: Path | None, state_path: Path | None, directory: Path | None, target: str | None, as_json: bool
) -> None:
    """Stop a guest, write its device state to a file, quit its QEMU; its RAM stays in place.

    When anything fails the guest goes on in the old QEMU.
    """
    host.require_root()
    from guestmemfs_fuse.cli import vm_work

    if directory is not None:
        if qmp_path is not None or state_path is not None:
            raise UsageError("--all finds monitors and names state files itself", hint="leave them out")
        _show_all(vm_work.run(vm_work.save_all(directory, target)), as_json, "saved")
        return
    if qmp_path is None or state_path is None:
        raise UsageError("save needs --qmp and --state, or --all", hint="`guestmemfs vm save --help`")
    done = vm_work.run(vm_work.save_one([qmp_path], state_path, target))
    size = size_text(done["state_bytes"])
    _show(done, as_json, f"saved to {done['state_path']} ({size}), RAM in {', '.join(done['ram_paths'])}")


@vm.command()
@click.option("--state", "state_path", type=_path, metavar="FILE", help="What `vm save` wrote.")
@click.option("--all", "directory", type=_path, metavar="DIR", help="Restore every guest saved in DIR.")
@click.option("--qmp", "qmp_path", type=_path, metavar="SOCKET", help="Its monitor.  [default: as before]")
@click.option("--force", is_flag=True, help="Load the state although the RAM file's mark was lifted.")
@_as_json
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- QEMU ARGS]...")
def restore(
    state_path: Path | None,
    directory: Path | None,
    qmp_path: Path | None,
    force: bool,
    as_json: bool,
    command: tuple[str, ...],
) -> None:
    """Start QEMU on a saved guest's RAM, load the device state, and let the guest go on.

    Without QEMU ARGS as the old QEMU was started; arguments alone are for the same program. When anything
    fails the guest rests as before, and restore can be tried again.
    """
    host.require_root()
    from guestmemfs_fuse.cli import vm_work

    if (state_path is None) == (directory is None):
        raise UsageError("restore needs --state or --all", hint="`guestmemfs vm restore --help`")
    if directory is not None:
        if qmp_path is not None or command:
            raise UsageError("--all starts every QEMU as it was started before", hint="leave the rest out")
        _show_all(vm_work.run(vm_work.restore_all(directory, force=force)), as_json, "restored")
        return
    assert state_path is not None
    work = vm_work.restore_one(state_path, command=command, qmp_path=qmp_path, force=force)
    done = vm_work.run(work)
    _show(done, as_json, f"the guest goes on in QEMU {done['pid']}, monitor {done['qmp_path']}")


@vm.command()
@click.argument("path", type=_path)
def discard(path: Path) -> None:
    """Give up the guest that rests in the RAM file PATH: lift its mark, so that the file can be used anew."""
    host.require_root()
    from guestmemfs_fuse.vm.control_marks import set_mark

    before = set_mark(path, "")
    if not before:
        raise GuestmemfsError(f"{path} holds no saved guest")
    result(f"{path} can be used again; the state in {before} is worth nothing now")


@vm.command("list")
@click.option("--target", metavar="TARGET", help="Only guests of this instance.")
@_as_json
def list_guests(target: str | None, as_json: bool) -> None:
    """Show running guests whose RAM is on a mount, and guests that rest in a file, mounted or not."""
    host.require_root()
    from guestmemfs_fuse.vm.host import survey

    found = survey(target)
    rows: list[dict[str, Any]] = [
        {
            "name": guest.name,
            "state": "running",
            "pid": guest.pid,
            "ram_paths": list(guest.ram_paths),
            "monitors": [str(path) for path in guest.monitors],
            "state_path": None,
        }
        for guest in found.running
    ]
    rows += [_resting(rest.ram_path, rest.state_path) for rest in found.resting]
    for instance in found.unmounted:
        rows += _resting_in(instance)
    for problem in found.problems:
        say(f"note: {problem}")
    if as_json:
        print_json(rows)
    elif rows:
        table(("GUEST", "STATE", "PID", "RAM", "MONITOR OR STATE FILE"), [_cells(row) for row in rows])
    else:
        say("no guests")


def _resting_in(instance: Instance) -> list[dict[str, Any]]:
    """What an instance that is not mounted left; nothing where its memory is gone."""
    from guestmemfs_fuse.cli import offline, sight

    if sight.look(instance).condition is sight.Condition.LOST:
        return []
    try:
        saved = offline.saved_guests(instance)
    except (GuestmemfsError, OSError) as error:
        say(f"note: instance {instance.name} cannot be read: {error}")
        return []
    return [_resting(instance.config.mountpoint + path, state_path) for path, state_path in saved]


def _resting(ram_path: str, state_path: str) -> dict[str, Any]:
    empty: dict[str, Any] = {"name": None, "state": "saved", "pid": None, "monitors": []}
    return {**empty, "ram_paths": [ram_path], "state_path": state_path}


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    where = row["state_path"] or ", ".join(row["monitors"]) or "no monitor"
    return (row["name"] or "-", row["state"], str(row["pid"] or "-"), ", ".join(row["ram_paths"]), where)


# -- results -----------------------------------------------------------------------------------------------


def _show(done: dict[str, Any], as_json: bool, headline: str) -> None:
    for warning in done["warnings"]:
        say(f"warning: {warning}")
    if as_json:
        print_json(done)
        return
    for step in done["steps"]:
        result(f"{step['name']:<10}{_ms(step['took_ns']):>10}")
    result(f"{'blackout':<10}{_ms(done['blackout_ns']):>10}")
    result(headline)


def _show_all(outcomes: list[Outcome], as_json: bool, verb: str) -> None:
    """A row a guest; exit code 1 when one is not where it should be. KeyboardInterrupt if one was undone."""
    if not outcomes:
        raise UnknownTargetError(f"there is no guest to be {verb}", hint="`guestmemfs vm list` shows them")
    for each in outcomes:
        for warning in each.done["warnings"] if each.done else ():
            say(f"warning: {each.name}: {warning}")
    if as_json:
        print_json({"guests": [_plain(each) for each in outcomes]})
    else:
        table(("GUEST", "RESULT", "BLACKOUT", "FILE, OR WHAT TO DO"), [_row(each, verb) for each in outcomes])
    failed = sum(each.error is not None for each in outcomes)
    if any(each.was_interrupted for each in outcomes):
        raise KeyboardInterrupt
    if failed:
        say(f"error: {failed} of {len(outcomes)} guests were not {verb}")
        click.get_current_context().exit(ExitCode.FAILED)


def _plain(each: Outcome) -> dict[str, Any]:
    if each.error is not None:
        return {"name": each.name, "ok": False, "error": each.error.message, "hint": each.error.hint}
    return {"name": each.name, "ok": True, "error": None, "hint": None, **(each.done or {})}


def _row(each: Outcome, verb: str) -> tuple[str, ...]:
    if each.done is None:
        error = each.error
        assert error is not None
        return (each.name, f"NOT {verb}: {error.message}", "-", error.hint or "-")
    return (each.name, verb, _ms(each.done["blackout_ns"]), each.done["state_path"])


def _ms(took_ns: int) -> str:
    return f"{took_ns / 1e6:.1f} ms"
