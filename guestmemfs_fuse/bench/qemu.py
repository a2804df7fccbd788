"""The benchmark's guest: QEMU, a kernel, and guest.c as its only program.

A `Guest` owns one QEMU at a time. What the guest says is appended to a log, also by the QEMU that goes on
after a live update, so the log is the guest's whole life. Called by guest.py.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from guestmemfs_fuse.core.errors import GuestmemfsError
from guestmemfs_fuse.vm.monitor import connect
from guestmemfs_fuse.vm.restore import RestoreReport, restore
from guestmemfs_fuse.vm.save import SaveReport, save
from guestmemfs_fuse.vm.steps import find_step

QEMU = "qemu-system-x86_64"
_POLL_S = 0.002
_ANSWER_S = 120.0


class GuestLostError(GuestmemfsError):
    """The guest did not say in time what it should have said."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What every guest of a run has in common. accel: "tcg" or "kvm"."""

    kernel: Path
    initramfs: Path
    accel: str


@dataclass(frozen=True, slots=True)
class LiveUpdate:
    """One save and restore, in nanoseconds: what each half kept the guest from running, and both.

    save_ns and load_ns are of the device state (and of the RAM, when it is written out); whole_ns also has
    the old QEMU's end and the new one's start in it.
    """

    save_ns: int
    load_ns: int
    whole_ns: int
    state_bytes: int


class Guest:
    """One guest. memory: the -object that is its RAM, without id and size; directory: for its files."""

    def __init__(self, machine: Machine, directory: Path, memory: str, size_bytes: int, fill: int) -> None:
        self._machine, self._memory, self._size_bytes, self._fill = machine, memory, size_bytes, fill
        self._log = directory / "serial.log"
        self._qmp = directory / "qmp.sock"
        self._state = directory / "state"
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Guest:
        self._log.unlink(missing_ok=True)
        self._began_s = time.monotonic()
        self._child = subprocess.Popen(
            self._command(), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._child.pid, signal.SIGKILL)
            self._child.wait()

    def _command(self) -> list[str]:
        kib = self._size_bytes >> 10
        cpu = "host" if self._machine.accel == "kvm" else "max"
        return [
            *(QEMU, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
            *("-accel", self._machine.accel, "-cpu", cpu, "-smp", "1", "-m", f"{kib}k"),
            *("-object", f"{self._memory},id=ram0,size={kib}k"),
            *("-machine", "pc,memory-backend=ram0,mem-merge=off"),
            *("-kernel", str(self._machine.kernel), "-initrd", str(self._machine.initramfs)),
            "-append",
            f"console=ttyS0 quiet panic=-1 no_timer_check fill_percent={self._fill}",
            *("-chardev", f"file,id=serial,path={self._log},append=on", "-serial", "chardev:serial"),
            *("-qmp", f"unix:{self._qmp},server=on,wait=off"),
        ]

    def wait_for(self, line: str, timeout_s: float = _ANSWER_S) -> float:
        """Wait until it says that line; seconds since its QEMU was started. Raises GuestLostError."""
        return self._wait(lambda: line in self._said(), f"never said {line!r}", timeout_s) - self._began_s

    def figures(self) -> dict[str, float]:
        """What it measured of its own memory, once it is `ready`."""
        found = re.findall(r"^(\w+_(?:ns|per_s)) ([0-9.]+)$", "\n".join(self._said()), re.MULTILINE)
        return {name: float(value) for name, value in found}

    def live_update(self, *, is_ram_in_place: bool) -> LiveUpdate:
        """Save it, end its QEMU, load it in a new one; it must go on counting from where it was."""
        saved = asyncio.run(self._save(is_ram_in_place))
        count = self._count()
        restored = asyncio.run(restore(self._state, timeout_s=_ANSWER_S))
        self._child = restored.child
        self._wait(lambda: self._count() > count, "did not go on after a live update", _ANSWER_S)
        return _figures(saved, restored)

    async def _save(self, is_ram_in_place: bool) -> SaveReport:
        async with connect(self._qmp) as monitor:
            return await save(
                monitor,
                self._state,
                qmp_path=self._qmp,
                is_ram_in_place=is_ram_in_place,
                timeout_s=_ANSWER_S,
            )

    def _count(self) -> int:
        counts = [int(line[6:]) for line in self._said() if line.startswith("count ")]
        return counts[-1] if counts else 0

    def _said(self) -> list[str]:
        """Complete lines."""
        try:
            text = self._log.read_text(errors="replace")
        except FileNotFoundError:
            return []
        return [line.strip() for line in text.split("\n")[:-1]]

    def _wait(self, holds: Callable[[], bool], otherwise: str, timeout_s: float) -> float:
        deadline = time.monotonic() + timeout_s
        while not holds():
            now = time.monotonic()
            if now > deadline or (self._child is not None and self._child.poll() is not None):
                raise GuestLostError(f"the guest {otherwise}; its last words: {self._said()[-3:]}")
            time.sleep(_POLL_S)
        return time.monotonic()


def _figures(saved: SaveReport, restored: RestoreReport) -> LiveUpdate:
    def took(report: SaveReport | RestoreReport, *names: str) -> int:
        return sum(find_step(report.steps, name).took_ns for name in names)

    whole_ns = saved.blackout_ns + restored.blackout_ns
    return LiveUpdate(
        save_ns=took(saved, "stop", "save"),
        load_ns=took(restored, "load", "continue"),
        whole_ns=whole_ns,
        state_bytes=saved.saved.state_bytes,
    )
