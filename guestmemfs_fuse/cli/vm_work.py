"""The work behind `guestmemfs vm`: one guest, or every guest at once, with marks, undone when interrupted.

Invariant: SIGINT, SIGTERM and SIGHUP roll back what is under way, once; a guest is either where it was or
rests whole in its state file. Called by cli/vm.py. Imports asyncio and qemu.qmp, so only when it is used.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from guestmemfs_fuse.core.errors import GuestmemfsError, UsageError
from guestmemfs_fuse.metadata import instance as registry
from guestmemfs_fuse.vm import host
from guestmemfs_fuse.vm.control_marks import RestoringMarks, SavingMarks
from guestmemfs_fuse.vm.errors import MonitorError
from guestmemfs_fuse.vm.host import RunningGuest
from guestmemfs_fuse.vm.monitor import Monitor, connect
from guestmemfs_fuse.vm.record import read_record, record_path
from guestmemfs_fuse.vm.restore import restore
from guestmemfs_fuse.vm.save import save

T = TypeVar("T")
Plain = dict[str, Any]

STATE_SUFFIX = ".state"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class InterruptedWorkError(GuestmemfsError):
    """A signal came before this guest's work was done: it is as it was before."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one guest: `done` is the documented JSON object, None when `error` says why not."""

    name: str
    done: Plain | None
    error: GuestmemfsError | None

    @property
    def was_interrupted(self) -> bool:
        """Whether a signal called it off."""
        return isinstance(self.error, InterruptedWorkError)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run it to its end; a signal cancels it, so that it is undone; then KeyboardInterrupt is raised.

    Work on every guest returns all the same, and says of each whether it was undone. When it was done,
    signals are ignored from then on: all that is left is to say so.
    """
    try:
        return asyncio.run(_cancellable(work))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None


async def _cancellable(work: Coroutine[Any, Any, T]) -> T:
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(work)

    def cancel() -> None:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
            loop.add_signal_handler(number, lambda: None)  # undoing must not be undone
        task.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, cancel)
    result = await task
    for number in _SIGNALS:
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)
    return result


# -- one guest ---------------------------------------------------------------------------------------------


async def save_one(monitors: Sequence[Path], state_path: Path, target: str | None = None) -> Plain:
    """Save the guest behind the first monitor that answers. Raises GuestmemfsError; see vm/save."""
    marks = SavingMarks(state_path)
    silent: list[MonitorError] = []
    for qmp_path in monitors:
        try:
            async with connect(qmp_path) as monitor:
                if target is not None:
                    await _require_on(monitor, target)
                report = await save(monitor, state_path, qmp_path=qmp_path, marks=marks)
        except MonitorError as error:
            # Only connecting raises this: what fails later is a SaveError.
            silent.append(error)
            continue
        return {
            "state_path": str(state_path.absolute()),
            "state_bytes": report.saved.state_bytes,
            "ram_paths": list(report.saved.ram_paths),
            "qemu_version": report.saved.qemu_version,
            "was_running": report.saved.was_running,
            "was_killed": report.was_killed,
            "steps": _steps(report.steps),
            "blackout_ns": report.blackout_ns,
            "warnings": [*report.warnings, *marks.remarks],
        }
    if len(silent) == 1:
        raise silent[0]
    raise MonitorError(
        "; ".join(error.message for error in silent) or "it has no monitor that could be found",
        hint="give QEMU a -qmp unix:PATH,server=on,wait=off of its own",
    )


async def _require_on(monitor: Monitor, target: str) -> None:
    """Refuse a guest whose RAM is not (all) in that instance."""
    from guestmemfs_fuse.vm import inspect

    mountpoint = (await asyncio.to_thread(registry.find, target)).config.mountpoint
    paths = (await inspect.read_ram(monitor)).paths
    elsewhere = [str(path) for path in paths if not str(path).startswith(mountpoint + "/")]
    if elsewhere or not paths:
        where = ", ".join(elsewhere) or "no file at all"
        raise UsageError(f"the guest's RAM is not on {mountpoint} but in {where}")


async def restore_one(
    state_path: Path, *, command: Sequence[str] = (), qmp_path: Path | None = None, force: bool = False
) -> Plain:
    """Start a VMM from state_path. Raises GuestmemfsError; see vm/restore.

    command: how to start it, or only the arguments for the program that ran before; empty: as before.
    """
    marks = RestoringMarks(state_path, force=force)
    full = list(command)
    if full and full[0].startswith("-"):
        full.insert(0, read_record(state_path).command[0])
    report = await restore(state_path, command=full or None, qmp_path=qmp_path, marks=marks)
    return {
        "state_path": str(state_path.absolute()),
        "pid": report.pid,
        "qmp_path": str(report.qmp_path),
        "ram_paths": list(report.saved.ram_paths),
        "was_running": report.saved.was_running,
        "steps": _steps(report.steps),
        "blackout_ns": report.blackout_ns,
        "warnings": marks.remarks,
    }


def _steps(steps: Sequence[Any]) -> list[Plain]:
    return [{"name": s.name, "started_ns": s.started_ns, "took_ns": s.took_ns} for s in steps]


# -- every guest -------------------------------------------------------------------------------------------


async def save_all(directory: Path, target: str | None = None) -> list[Outcome]:
    """Save every running guest (of one instance) into directory, all at once. Raises UnknownTargetError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = await asyncio.to_thread(host.survey, target)

    def work(guest: RunningGuest) -> Coroutine[Any, Any, Plain]:
        return save_one(guest.monitors, directory / (guest.name + STATE_SUFFIX))

    unknown = [Outcome("?", None, GuestmemfsError(problem)) for problem in found.problems]
    return [*await _side_by_side([(guest.name, work(guest)) for guest in found.running]), *unknown]


async def restore_all(directory: Path, *, force: bool = False) -> list[Outcome]:
    """Restore every guest that rests in directory, all at once. Raises OSError when there is none such."""
    names = sorted(os.listdir(directory))
    states = [directory / name for name in names if record_path(directory / name).name in names]
    return await _side_by_side(
        [(path.name.removesuffix(STATE_SUFFIX), restore_one(path, force=force)) for path in states]
    )


async def _side_by_side(works: Sequence[tuple[str, Coroutine[Any, Any, Plain]]]) -> list[Outcome]:
    """What became of each, also of those that were called off."""
    tasks = [asyncio.ensure_future(_outcome(name, work)) for name, work in works]
    try:
        return await asyncio.gather(*tasks)
    except asyncio.CancelledError:
        return await asyncio.gather(*tasks)


async def _outcome(name: str, work: Coroutine[Any, Any, Plain]) -> Outcome:
    try:
        return Outcome(name, await work, None)
    except asyncio.CancelledError:
        return Outcome(name, None, InterruptedWorkError("interrupted", hint="run the same command again"))
    except GuestmemfsError as error:
        return Outcome(name, None, error)
    except OSError as error:
        return Outcome(name, None, GuestmemfsError(f"{error.filename or name}: {error.strerror}"))
