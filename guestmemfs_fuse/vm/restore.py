"""The second half of a live update: a new VMM takes over the RAM files and loads the device state.

Invariant: until `cont` has succeeded, state file, record and RAM are as they were; a VMM that could not
load is killed, so restore can be tried again. From `cont` on nothing interrupts the rest: the guest uses its
RAM, and the state must not be loaded again. Called by `guestmemfs vm restore` and the demo.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from guestmemfs_fuse.core.errors import GuestmemfsError, InstanceBusyError, UnsupportedError, UsageError
from guestmemfs_fuse.linux.patience import patient
from guestmemfs_fuse.linux.probe import describe
from guestmemfs_fuse.vm import inspect, migration, process
from guestmemfs_fuse.vm.errors import MonitorError, RecordError, RestoreError
from guestmemfs_fuse.vm.finish import finished, settled
from guestmemfs_fuse.vm.marks import Marks, NoMarks
from guestmemfs_fuse.vm.migration import Method
from guestmemfs_fuse.vm.monitor import Monitor, QmpMonitor, connect
from guestmemfs_fuse.vm.record import SavedGuest, claimed, read_record, record_path
from guestmemfs_fuse.vm.steps import Step, Stopwatch, find_step

START_TIMEOUT_S = patient(10.0)
KILL_TIMEOUT_S = 10.0
CONNECT_PAUSE_S = 0.002
RUN = (sys.executable, "-P", "-c", "from guestmemfs_fuse.cli.main import main; main()", "run", "--")
"""`guestmemfs run --`, of this very version."""


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What was done and what it cost; steps: start, look, load, continue.

    pid: the VMM that runs the guest. child: what we started, for a caller that lives long enough to reap it.
    """

    pid: int
    child: subprocess.Popen[bytes]
    qmp_path: Path
    saved: SavedGuest
    steps: tuple[Step, ...]

    @property
    def blackout_ns(self) -> int:
        """From the start of the new VMM until the guest went on."""
        return self.steps[-1].ended_ns - find_step(self.steps, "start").started_ns


async def restore(
    state_path: Path,
    *,
    command: Sequence[str] | None = None,
    qmp_path: Path | None = None,
    marks: Marks | None = None,
    identify: inspect.Identify = inspect.identify_on_mount,
    timeout_s: float = 60.0,
) -> RestoreReport:
    """Start a VMM from state_path; returns when the guest goes on (or is paused, if it was saved so).

    command: how to start QEMU, without -incoming; None means as the old one was. `guestmemfs run --` is put
    before it where the kernel cannot map the RAM files through the mount, if it is not there. qmp_path: its
    monitor; None means the old path. timeout_s: for loading.

    Raises RecordError (also of the state file), UsageError, InstanceBusyError (somebody else restores it, or
    has the monitor's path) before anything is started; RestoreError when the new VMM could not take over,
    which changes nothing: state and RAM stay as they were saved.
    """
    with claimed(state_path):
        return await _restore(state_path, command, qmp_path, marks or NoMarks(), identify, timeout_s)


async def _restore(
    state_path: Path,
    command: Sequence[str] | None,
    qmp_path: Path | None,
    marks: Marks,
    identify: inspect.Identify,
    timeout_s: float,
) -> RestoreReport:
    saved = read_record(state_path)
    _require_whole(state_path, saved)
    qmp_path = qmp_path or Path(saved.qmp_path)
    _require_unused(qmp_path)
    full_command = incoming_command(command or saved.command, qmp_path)
    if not starts_by_run(full_command) and await asyncio.to_thread(inspect.needs_run, _ram_paths(saved)):
        full_command = (*RUN, *full_command)
    watch = Stopwatch()
    log_path = state_path.with_name(state_path.name + ".qemu.log")
    log_path.unlink(missing_ok=True)  # of an earlier attempt: its words are not about this one
    try:
        async with AsyncExitStack() as connections, AsyncExitStack() as undo:
            undo.push_async_callback(asyncio.to_thread, marks.hold, _ram_paths(saved))
            await settled(asyncio.to_thread(marks.admit, _ram_paths(saved)))
            with watch.step("start"):
                child = process.start(full_command, directory=saved.directory, log_path=log_path)
                undo.push_async_callback(_end, child)
                monitor = await _greet(connections, qmp_path, child)
                # Before it may be ended: who does not wait for a state is somebody else's.
                await _require_waiting(monitor)
                undo.push_async_callback(process.end, monitor.pid, timeout_s=KILL_TIMEOUT_S)
            method = await _load(monitor, state_path, saved, identify, timeout_s, watch)
            with watch.step("continue"):
                await finished(_go_on(monitor, method, saved))
            undo.pop_all()
    except (GuestmemfsError, OSError) as error:
        raise _failure(error, log_path, state_path) from error
    # From here the guest runs: what fails now must not end it, and its state must not be loaded again.
    await finished(asyncio.to_thread(marks.release, _ram_paths(saved)))
    for path in (state_path, record_path(state_path), log_path):
        path.unlink(missing_ok=True)
    return RestoreReport(monitor.pid, child, qmp_path, saved, watch.steps)


def _require_whole(state_path: Path, saved: SavedGuest) -> None:
    """Raises RecordError where QEMU would find no state, or a part of it: it may wait for more for ever.

    More than was counted is fine: `cat` may have been behind when QEMU called the state complete.
    """
    try:
        size_bytes = os.stat(state_path).st_size
    except OSError as error:
        raise RecordError(f"cannot read {describe(error)}", hint="put it back beside its record") from error
    if size_bytes < saved.state_bytes:
        raise RecordError(
            f"{state_path} has {size_bytes} bytes of the {saved.state_bytes} that were saved",
            hint="put the whole file back",
        )


def _require_unused(qmp_path: Path) -> None:
    """Raises InstanceBusyError: the VMM that listens there would be taken for the new one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as sock:
        sock.setblocking(False)
        try:
            sock.connect(str(qmp_path))
        except BlockingIOError:
            pass  # there is even a queue
        except OSError:
            return
    raise InstanceBusyError(
        f"a VMM has its monitor at {qmp_path} already", hint="end it, or give the new one another by --qmp"
    )


def incoming_command(command: Sequence[str], qmp_path: Path) -> tuple[str, ...]:
    """The command line with `-incoming defer` and a monitor at qmp_path, each added only if it lacks. Pure.

    Raises UsageError when it already says -incoming something else.
    """
    full = list(command)
    if not full:
        raise UsageError("no command to start a VMM with")
    if "-incoming" in full:
        where = full.index("-incoming") + 1
        if full[where : where + 1] != ["defer"]:
            raise UsageError(
                "the command line already has -incoming", hint="leave it out; restore adds its own"
            )
    else:
        full += ["-incoming", "defer"]
    # In an option a comma of a path is doubled (QEMU's qemu-options), and one comma ends it.
    text = str(qmp_path).replace(",", ",,")
    is_there = re.compile(re.escape(text) + r"(?:,(?!,)|[\s'\"]|$)")
    if not any(is_there.search(argument) for argument in full):
        full += ["-qmp", f"unix:{text},server=on,wait=off"]
    return tuple(full)


def starts_by_run(command: Sequence[str]) -> bool:
    """Whether a command line is one of `guestmemfs run`. Pure."""
    words = [Path(word).name for word in command]
    return "run" in words and any("guestmemfs" in word for word in words[: words.index("run")])


async def _greet(connections: AsyncExitStack, qmp_path: Path, child: subprocess.Popen[bytes]) -> QmpMonitor:
    """Connect to a VMM that is just starting, however often that takes."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            return await connections.enter_async_context(connect(qmp_path))
        except MonitorError:
            # With -daemonize the process we started ends well and another one goes on.
            if child.poll() not in (None, 0):
                raise MonitorError(f"QEMU ended with exit code {child.returncode}") from None
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(CONNECT_PAUSE_S)


async def _load(
    monitor: Monitor,
    state_path: Path,
    saved: SavedGuest,
    identify: inspect.Identify,
    timeout_s: float,
    watch: Stopwatch,
) -> Method:
    with watch.step("look"):
        method = await _look(monitor, saved, identify)
    with watch.step("load"):
        await migration.configure(monitor, method)
        await monitor.execute("migrate-incoming", uri=method.incoming_uri(state_path.absolute()))
        await migration.wait_until_completed(monitor, timeout_s=timeout_s)
    return method


async def _go_on(monitor: Monitor, method: Method, saved: SavedGuest) -> None:
    await migration.unconfigure(monitor, method)
    if saved.was_running:
        await monitor.execute("cont")


def _failure(error: GuestmemfsError | OSError, log_path: Path, state_path: Path) -> RestoreError:
    """Why there is no guest, in QEMU's words if it had any, and what helps."""
    reason, advice = (describe(error), None) if isinstance(error, OSError) else (str(error), error.hint)
    words = process.last_words(log_path)
    rests = f"the guest still rests in {state_path}; restore can be tried again"
    return RestoreError(
        f"not restored: {reason}" + (f"; QEMU said: {words}" if words else ""),
        hint=f"{advice}; {rests}" if advice else rests,
    )


async def _require_waiting(monitor: Monitor) -> None:
    status = (await monitor.execute("query-status"))["status"]
    if status != "inmigrate":
        raise MonitorError(f"the new QEMU is {status} instead of waiting for its state")


async def _look(monitor: Monitor, saved: SavedGuest, identify: inspect.Identify) -> Method:
    """Refuse, before anything is loaded, a VMM that cannot read the state or has other RAM."""
    # The guest is waiting, and the full probe reads 200 KiB of schema (40 ms). Both came with QEMU 8.2.
    knows_mode = "mode" in await monitor.execute("query-migrate-parameters")
    if saved.uses_cpr and not knows_mode:
        raise UnsupportedError(
            "the state was saved with mode=cpr-reboot, which the new QEMU does not know",
            hint=f"restore with QEMU {saved.qemu_version} or newer",
        )
    if saved.is_ram_in_place:
        ram = await inspect.read_ram(monitor, identify=identify)
        inspect.require_preservable(ram)
        if set(ram.paths) != set(_ram_paths(saved)):
            raise UsageError(
                f"the new QEMU has its RAM in {_names(ram.paths)}, "
                f"the guest was saved with its RAM in {_names(_ram_paths(saved))}"
            )
    return Method(saved.is_ram_in_place, saved.uses_cpr, uses_file_uri=knows_mode)


def _names(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths)) or "no file"


def _ram_paths(saved: SavedGuest) -> tuple[Path, ...]:
    return tuple(Path(path) for path in saved.ram_paths)


async def _end(child: subprocess.Popen[bytes]) -> None:
    await process.end(child.pid, timeout_s=KILL_TIMEOUT_S)
    child.poll()  # reap it
