"""The first half of a live update: the guest rests in its RAM files and a small state file.

Order: look (nothing is touched yet), mark the RAM files, stop, write device state, record, and only then
quit the VMM. Invariant: until the state file has its final name the guest can go on in the old VMM, and any
failure, Ctrl-C included, makes it do so; from then on it is saved, and nothing interrupts the rest. Called
by `guestmemfs vm save` and the demo.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from guestmemfs_fuse.core.errors import GuestmemfsError, UsageError
from guestmemfs_fuse.linux import mountinfo
from guestmemfs_fuse.linux.probe import describe
from guestmemfs_fuse.vm import inspect, migration, process
from guestmemfs_fuse.vm.errors import MonitorError, SaveError
from guestmemfs_fuse.vm.finish import finished, settled
from guestmemfs_fuse.vm.marks import Marks, NoMarks
from guestmemfs_fuse.vm.migration import Method
from guestmemfs_fuse.vm.monitor import Monitor, probe
from guestmemfs_fuse.vm.record import SavedGuest, record_path, write_record
from guestmemfs_fuse.vm.steps import Step, Stopwatch, find_step

# qemu_savevm_state_header() in QEMU's migration/savevm.c: QEMU_VM_FILE_MAGIC.
STATE_MAGIC = b"QEVM"
CAN_BE_SAVED = frozenset({"running", "paused", "suspended"})
CANCEL_TIMEOUT_S = 10.0
QUIT_TIMEOUT_S = 10.0
_KILLED_SAVE_HINT = "a save of it was killed: QMP `cont`, then `guestmemfs vm discard` its RAM file"


@dataclass(frozen=True, slots=True)
class SaveReport:
    """What was done and what it cost; steps: look, stop, save, quit."""

    state_path: Path
    saved: SavedGuest
    steps: tuple[Step, ...]
    warnings: tuple[str, ...]
    was_killed: bool

    @property
    def blackout_ns(self) -> int:
        """From `stop` until the old VMM was gone."""
        return find_step(self.steps, "quit").ended_ns - find_step(self.steps, "stop").started_ns


@dataclass(frozen=True, slots=True)
class _Plan:
    """What looking at the guest found out; nothing was changed to learn it."""

    method: Method
    was_running: bool
    ram_paths: tuple[Path, ...]
    qemu_version: str
    warnings: tuple[str, ...]


async def save(
    monitor: Monitor,
    state_path: Path,
    *,
    qmp_path: Path,
    is_ram_in_place: bool = True,
    marks: Marks | None = None,
    identify: inspect.Identify = inspect.identify_on_mount,
    timeout_s: float = 60.0,
) -> SaveReport:
    """Save the guest behind `monitor` to state_path and quit its VMM.

    qmp_path: the monitor's socket, recorded for restore. is_ram_in_place=False writes the RAM into the state
    file too, wherever the guest has it. marks: who marks RAM files. timeout_s: for writing the state.

    Raises NotPreservableError, UsageError, UnsupportedError before anything was touched; SaveError later,
    when everything has been rolled back.
    """
    marks = marks or NoMarks()
    watch = Stopwatch()
    if os.path.lexists(state_path):
        raise UsageError(f"{state_path} exists already", hint="it may hold a saved guest; name another file")
    _require_writable(state_path)
    with watch.step("look"):
        plan = await _look(monitor, is_ram_in_place, identify)
    with process.watched(monitor.pid) as pidfd:
        try:
            saved = await _save(monitor, state_path, qmp_path, plan, marks, timeout_s, watch)
        except (GuestmemfsError, OSError) as error:
            reason = describe(error) if isinstance(error, OSError) else error
            raise SaveError(f"not saved: {reason}; {await _whereabouts(monitor)}") from error
        with watch.step("quit"):
            was_killed = await finished(_quit(monitor, pidfd))
    return SaveReport(state_path, saved, watch.steps, plan.warnings, was_killed)


def _require_writable(state_path: Path) -> None:
    """Raises UsageError where write(2) is refused, OSError without the directory."""
    device = os.stat(state_path.absolute().parent).st_dev
    mounts = mountinfo.read_mounts()
    if any(each.fstype == mountinfo.OURS and os.makedev(*each.dev) == device for each in mounts):
        raise UsageError(f"{state_path} is on a guestmemfs mount, which is not written to", hint="use a disk")


async def _look(monitor: Monitor, is_ram_in_place: bool, identify: inspect.Identify) -> _Plan:
    abilities = await probe(monitor)
    method = migration.choose_method(abilities, is_ram_in_place=is_ram_in_place)
    status = (await monitor.execute("query-status"))["status"]
    if status not in CAN_BE_SAVED:
        hint = _KILLED_SAVE_HINT if status == "postmigrate" else None
        raise UsageError(f"a guest that is {status} cannot be saved", hint=hint)
    ram = await inspect.read_ram(monitor, identify=identify)
    if is_ram_in_place:
        inspect.require_preservable(ram)
    # QEMU 7.2 discards the whole RAM file of a virtio-mem device even with -incoming; 10.0 does not.
    warnings = tuple(
        f"virtio-mem device {name}: QEMU before 8.1 empties its RAM file when it starts"
        for name in ram.virtio_mem_devices
        if (abilities.version.major, abilities.version.minor) < (8, 1)
    )
    return _Plan(method, status != "paused", ram.paths, str(abilities.version), warnings)


async def _save(
    monitor: Monitor,
    state_path: Path,
    qmp_path: Path,
    plan: _Plan,
    marks: Marks,
    timeout_s: float,
    watch: Stopwatch,
) -> SavedGuest:
    """Everything that can be undone; leaves a guest that rests, or one that runs as before."""
    async with AsyncExitStack() as undo:
        partial_path = _create_partial(state_path)
        undo.callback(partial_path.unlink, missing_ok=True)
        undo.push_async_callback(asyncio.to_thread, marks.release, plan.ram_paths)
        await settled(asyncio.to_thread(marks.hold, plan.ram_paths))
        undo.push_async_callback(migration.unconfigure, monitor, plan.method)
        await migration.configure(monitor, plan.method)
        if plan.was_running:
            undo.push_async_callback(monitor.execute, "cont")
        with watch.step("stop"):
            await monitor.execute("stop")
        undo.push_async_callback(migration.cancel, monitor, timeout_s=CANCEL_TIMEOUT_S)
        with watch.step("save"):
            await monitor.execute("migrate", uri=plan.method.outgoing_uri(partial_path))
            await migration.wait_until_completed(monitor, timeout_s=timeout_s)
            saved = _describe(monitor.pid, _require_state(partial_path), qmp_path, plan)
            undo.callback(record_path(state_path).unlink, missing_ok=True)
            write_record(state_path, saved)
            os.replace(partial_path, state_path)
        undo.pop_all()
    return saved


def _create_partial(state_path: Path) -> Path:
    """Make the file QEMU will write into ourselves: it holds the guest's registers, so only root reads it."""
    partial_path = state_path.absolute().with_name(state_path.name + ".partial")
    partial_path.unlink(missing_ok=True)  # of a save that was killed; also never write through a link
    os.close(os.open(partial_path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    return partial_path


def _require_state(path: Path) -> int:
    """Size in bytes of a state file that begins as one must. Raises MonitorError."""
    with open(path, "rb") as file:
        magic = file.read(len(STATE_MAGIC))
        size_bytes = os.fstat(file.fileno()).st_size
    if magic != STATE_MAGIC:
        raise MonitorError(f"QEMU says the state is complete, but {path} holds none ({size_bytes} bytes)")
    return size_bytes


def _describe(pid: int, state_bytes: int, qmp_path: Path, plan: _Plan) -> SavedGuest:
    command, directory = process.command_of(pid)
    return SavedGuest(
        is_ram_in_place=plan.method.is_ram_in_place,
        uses_cpr=plan.method.uses_cpr,
        was_running=plan.was_running,
        ram_paths=tuple(str(path) for path in plan.ram_paths),
        state_bytes=state_bytes,
        qemu_version=plan.qemu_version,
        qmp_path=str(qmp_path.absolute()),
        command=command,
        directory=directory,
    )


async def _quit(monitor: Monitor, pidfd: int) -> bool:
    """Make the old VMM end; whether it had to be killed (the guest is safely saved by then)."""
    try:
        await monitor.execute("quit")
    except MonitorError:
        pass  # it may hang up before it answers; whether it ends is what counts
    if await process.has_ended(pidfd, timeout_s=QUIT_TIMEOUT_S):
        return False
    await process.kill(pidfd, timeout_s=QUIT_TIMEOUT_S)
    return True


async def _whereabouts(monitor: Monitor) -> str:
    """Where the guest is after a failed save, as half a sentence."""
    try:
        status = (await monitor.execute("query-status"))["status"]
    except MonitorError:
        return "the old QEMU is gone"
    if status == "running":
        return "the guest goes on in the old QEMU"
    return f"the guest is {status} in the old QEMU"
