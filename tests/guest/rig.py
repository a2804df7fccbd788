"""Runs the test guest: a Debian kernel and a busybox initramfs that count (tests/guest/init), under QEMU.

Shared by the guest tests and by scripts/demo.py. A `Guest` owns one QEMU process at a time and knows it by
its pid: whatever happens, leaving the `with` block ends it. What the guest says goes to a log file that both
the old and the new QEMU of a live update append to, so the log is the guest's own account of its life.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from guestmemfs_fuse.linux.patience import patient
from guestmemfs_fuse.vm.monitor import connect
from guestmemfs_fuse.vm.save import SaveReport, save

REPOSITORY = Path(__file__).resolve().parents[2]
QEMU = "qemu-system-x86_64"
BOOT_TIMEOUT_S = patient(180.0)
ANSWER_TIMEOUT_S = patient(180.0)
ASK_AGAIN_S = 2.0
POLL_S = 0.01


class GuestLost(Exception):
    """The guest did not do what it should have done in time; carries the ends of its logs."""


@dataclass(frozen=True, slots=True)
class BootFiles:
    """What the guest boots."""

    kernel: Path
    initramfs: Path


def boot_files() -> BootFiles:
    """Fetch and build them if need be (scripts/guest-kernel). Raises CalledProcessError."""
    script = REPOSITORY / "scripts" / "guest-kernel"
    done = subprocess.run([script], check=True, stdout=subprocess.PIPE, text=True)
    kernel, initramfs = done.stdout.split()
    return BootFiles(Path(kernel), Path(initramfs))


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Poll a condition until it holds or timeout_s seconds have passed; whether it held."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


class Guest:
    """One test guest. directory holds its sockets and logs; memory_path is the file that is its RAM."""

    def __init__(
        self,
        boot: BootFiles,
        directory: Path,
        memory_path: Path,
        size_mib: int,
        *,
        pattern_mib: int = 8,
        qemu: str = QEMU,
    ) -> None:
        self.memory_path = memory_path
        self.qmp_path = directory / "qmp.sock"
        self.serial_path = directory / "serial.sock"
        self.serial_log = directory / "serial.log"
        self.qemu_log = directory / "qemu.log"
        self.size_mib = size_mib
        self._boot = boot
        self._pattern_mib = pattern_mib
        self._qemu = qemu
        self._questions = 0
        self._pid: int | None = None
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Guest:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    # -- the process ---------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """Process id of the QEMU that runs it now."""
        if self._pid is None:
            raise GuestLost("this guest is not running")
        return self._pid

    def command(self, *, is_shared: bool = True) -> list[str]:
        """The QEMU command line, without -incoming."""
        share = "on" if is_shared else "off"
        return [
            self._qemu,
            *("-nodefaults", "-no-user-config", "-no-reboot"),
            *("-display", "none"),
            *("-accel", "tcg"),
            *("-cpu", "max"),
            *("-smp", "1"),
            *("-m", f"{self.size_mib}M"),
            "-object",
            f"memory-backend-file,id=ram0,size={self.size_mib}M,mem-path={self.memory_path},"
            f"share={share},align=2M",
            *("-machine", "pc,memory-backend=ram0,mem-merge=off"),
            *("-kernel", str(self._boot.kernel)),
            *("-initrd", str(self._boot.initramfs)),
            *("-append", f"console=ttyS0 quiet panic=-1 no_timer_check pattern_mib={self._pattern_mib}"),
            "-chardev",
            f"socket,id=serial,path={self.serial_path},server=on,wait=off,"
            f"logfile={self.serial_log},logappend=on",
            *("-serial", "chardev:serial"),
            *("-qmp", f"unix:{self.qmp_path},server=on,wait=off"),
        ]

    def start(self, *, is_shared: bool = True) -> None:
        """Boot it; returns when it counts. Raises GuestLost."""
        self.serial_log.unlink(missing_ok=True)
        with open(self.qemu_log, "wb") as log:
            self._child = subprocess.Popen(
                self.command(is_shared=is_shared), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._pid = self._child.pid
        self.wait_count(1, BOOT_TIMEOUT_S)

    def adopt(self, pid: int, child: subprocess.Popen[bytes] | None = None) -> None:
        """From now on it is run by another QEMU, such as the one a restore has started."""
        self._pid = pid
        self._child = child

    def is_alive(self) -> bool:
        """Whether its QEMU still runs."""
        if self._pid is None:
            return False
        if self._child is not None:
            return self._child.poll() is None
        return Path(f"/proc/{self._pid}").exists()

    def kill(self) -> None:
        """End its QEMU and wait until it is gone; does nothing when it is gone already."""
        pid, self._pid = self._pid, None
        if pid is None or (self._child is not None and self._child.poll() is not None):
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        if self._child is not None:
            self._child.wait()

    def save(self, state_path: Path) -> SaveReport:
        """`vm save`, in this process. Raises what vm/save raises."""

        async def talk() -> SaveReport:
            async with connect(self.qmp_path) as monitor:
                return await save(monitor, state_path, qmp_path=self.qmp_path)

        return asyncio.run(talk())

    # -- what it says --------------------------------------------------------------------------------

    def counts(self) -> list[int]:
        """Every count it has printed so far, in order."""
        return [int(found) for found in re.findall(r"^count (\d+)\r?$", self._complete_lines(), re.M)]

    def count(self) -> int:
        """The last count it printed; 0 before the first."""
        counts = self.counts()
        return counts[-1] if counts else 0

    def wait_count(self, at_least: int, timeout_s: float) -> int:
        """Wait until it has counted that far; the count reached. Raises GuestLost."""
        if not wait_until(lambda: self.count() >= at_least or not self.is_alive(), timeout_s):
            raise self._lost(f"still at count {self.count()} after {timeout_s:g} s, wanted {at_least}")
        if self.count() < at_least:
            raise self._lost(f"QEMU ended at count {self.count()}, wanted {at_least}")
        return self.count()

    def wait_progress(self, by: int = 5, timeout_s: float = ANSWER_TIMEOUT_S) -> int:
        """Wait until it has counted `by` further than now; the count reached. Raises GuestLost."""
        return self.wait_count(self.count() + by, timeout_s)

    def complaints(self) -> list[str]:
        """Lines in which it says that its RAM is not what it should be, or that its kernel is unwell."""
        return re.findall(r"^(?:broken:.*|.*Kernel panic.*|.*Oops.*|.*BUG:.*)$", self._complete_lines(), re.M)

    def assert_unharmed(self) -> None:
        """It counts on, has counted without a gap since it booted, and its RAM is what it was."""
        self.wait_progress(3)
        counts = self.counts()
        assert counts == list(range(1, len(counts) + 1))
        assert self.complaints() == []
        assert self.pattern_now() == self.pattern_at_boot()

    def pattern_at_boot(self) -> str:
        """Checksum of the random pattern in its RAM, as it computed it before its first count."""
        found = re.search(r"^pattern ([0-9a-f]{64})\r?$", self._complete_lines(), re.M)
        if found is None:
            raise self._lost("it never printed the checksum of its pattern")
        return found[1]

    def pattern_now(self) -> str:
        """Have it compute that checksum again from what is in its RAM now. Raises GuestLost."""
        self._questions += 1
        question = f"sum {self._questions}"
        deadline = time.monotonic() + ANSWER_TIMEOUT_S
        with self._serial() as serial:
            while time.monotonic() < deadline:
                # It may lose a word (see tests/guest/init), so ask until it answers this very question.
                serial.sendall(question.encode() + b"\n")
                if wait_until(lambda: self._drain(serial) or self._answer_to(question) != "", ASK_AGAIN_S):
                    return self._answer_to(question)
        raise self._lost(f"it did not answer {question!r} on its serial console")

    def _answer_to(self, question: str) -> str:
        found = re.search(rf"^{question} ([0-9a-f]{{64}})\r?$", self._complete_lines(), re.M)
        return found[1] if found else ""

    @staticmethod
    def _drain(serial: socket.socket) -> bool:
        """Take what it prints meanwhile, which the log has too; always False."""
        with contextlib.suppress(BlockingIOError):
            serial.recv(65536)
        return False

    @contextlib.contextmanager
    def _serial(self) -> Iterator[socket.socket]:
        with socket.socket(socket.AF_UNIX) as serial:
            serial.connect(str(self.serial_path))
            serial.setblocking(False)
            yield serial

    def _complete_lines(self) -> str:
        try:
            text = self.serial_log.read_text(errors="replace")
        except FileNotFoundError:
            return ""
        return text[: text.rfind("\n") + 1]

    def _lost(self, what: str) -> GuestLost:
        said = "\n".join(self._complete_lines().splitlines()[-15:])
        try:
            qemu_said = self.qemu_log.read_text(errors="replace")[-1000:]
        except FileNotFoundError:
            qemu_said = ""
        return GuestLost(f"{what}\n-- serial console:\n{said}\n-- QEMU:\n{qemu_said}")
