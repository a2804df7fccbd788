"""What can go wrong when a test boots a machine: three things that must never be mistaken for one another."""

from __future__ import annotations

from pathlib import Path


class VmError(Exception):
    """Root of the rig's errors."""


class VmSetupError(VmError):
    """This host cannot boot such a machine at all (no QEMU, no such kernel, no such module)."""


class VmLost(VmError):
    """The machine died or hung: a phase has no exit status. Says nothing about what the script tests.

    logs_dir: directory with console.log, QEMU's stderr and what had been reported until then.
    """

    def __init__(self, message: str, *, phase: int, logs_dir: Path) -> None:
        super().__init__(message)
        self.phase = phase
        self.logs_dir = logs_dir


class VmTestFailed(VmError):
    """The machine was well, and the script of a phase exited with a status other than 0."""

    def __init__(self, message: str, *, phase: int, exit_status: int, output: str, logs_dir: Path) -> None:
        super().__init__(message)
        self.phase = phase
        self.exit_status = exit_status
        self.output = output
        self.logs_dir = logs_dir
