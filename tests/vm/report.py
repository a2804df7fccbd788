"""What a machine left behind, read after its end: results, or the error that says how it ended.

Reads the directory that inside/run-phase wrote to (started-N, output-N, dmesg-N, finished-N, status-N, the
latter two whole or not at all) and the serial console. Called by rig.py only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from .errors import VmLost, VmTestFailed

_DEATH = re.compile(r"Kernel panic - not syncing.*|BUG: .*|rig: .*|Oops: .*")
_LOG_TAIL_LINES = 30


@dataclass(frozen=True, slots=True)
class PhaseResult:
    """One script's run. boot_s: from kernel start to script start, script_s: the script itself (VM clock)."""

    exit_status: int
    output: str
    dmesg: str
    boot_s: float
    script_s: float


@dataclass(frozen=True, slots=True)
class VmResult:
    """What a machine left behind: a PhaseResult per script, the files in $VM_OUT, and the serial console."""

    phases: tuple[PhaseResult, ...]
    files: Mapping[str, bytes]
    console: str
    total_s: float

    @property
    def exit_status(self) -> int:
        """Exit status of the last script."""
        return self.phases[-1].exit_status

    @property
    def output(self) -> str:
        """Output of all scripts, stdout and stderr together."""
        return "".join(phase.output for phase in self.phases)


@dataclass(frozen=True, slots=True)
class Run:
    """One machine's directories on the host."""

    dir: Path
    phases: int

    @property
    def shared(self) -> Path:
        return self.dir / "shared"

    def report(self, name: str, phase: int) -> str | None:
        path = self.shared / "report" / f"{name}-{phase}"
        return path.read_text(errors="replace") if path.exists() else None

    @property
    def phase(self) -> int:
        """Where a machine that was lost was lost: the first phase without an exit status."""
        missing = (n for n in range(1, self.phases + 1) if self.status(n) is None)
        return next(missing, self.phases)

    def status(self, phase: int) -> int | None:
        """Exit status of a phase; 0 when its script went to the next phase by a kexec of its own."""
        status = self.report("status", phase)
        if status is None:
            return 0 if self.report("started", phase + 1) else None
        return int(status)

    def console(self) -> str:
        path = self.dir / "console.log"
        return path.read_text(errors="replace") if path.exists() else ""


def lost(run: Run, reason: str) -> NoReturn:
    """Raise VmLost with the end of console and output."""
    phase = run.phase
    where = "in" if run.report("started", phase) else "before the script of"
    raise VmLost(
        f"VM lost {where} phase {phase}: {reason}; logs in {run.dir}\n"
        f"{_tail('console', run.console())}{_tail('output', run.report('output', phase) or '')}",
        phase=phase,
        logs_dir=run.dir,
    )


def _tail(title: str, text: str) -> str:
    lines = text.rstrip().splitlines()[-_LOG_TAIL_LINES:]
    return "".join(f"  {title}| {line.rstrip()}\n" for line in lines)


def collect(run: Run, total_s: float, *, check: bool) -> VmResult:
    """The result of a machine that has ended. check: raise VmTestFailed for a status other than 0.

    Raises VmLost when a phase has no status though the one before it ended well.
    """
    results: list[PhaseResult] = []
    for number in range(1, run.phases + 1):
        status = run.status(number)
        if status is None:
            death = _DEATH.findall(run.console())
            lost(run, death[-1].strip() if death else "it stopped without a report")
        result = _phase_result(run, number, status)
        results.append(result)
        if result.exit_status != 0:
            break
    last = results[-1]
    if check and last.exit_status != 0:
        raise VmTestFailed(
            f"script of phase {len(results)} exited with status {last.exit_status}; logs in {run.dir}\n"
            f"{_tail('output', last.output)}",
            phase=len(results),
            exit_status=last.exit_status,
            output=last.output,
            logs_dir=run.dir,
        )
    out = run.shared / "out"
    files = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    return VmResult(tuple(results), files, run.console(), total_s)


def _phase_result(run: Run, number: int, exit_status: int) -> PhaseResult:
    boot_s = float(run.report("started", number) or "nan")
    return PhaseResult(
        exit_status=exit_status,
        output=run.report("output", number) or "",
        dmesg=run.report("dmesg", number) or "",
        boot_s=boot_s,
        script_s=float(run.report("finished", number) or "nan") - boot_s,
    )
