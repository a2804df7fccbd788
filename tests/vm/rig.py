"""run_in_vm(): boot a kernel on this machine's own userland, run a script in it, bring back what it did.

The machine is QEMU under TCG. Its root is this machine's root over virtiofs, read-only, with a tmpfs overlay on
top: no image to build, the checkout and its .venv at their usual paths, and nothing written there stays. The
only way out is a directory shared with the host and written through: scripts go in, and for every phase a start
mark, output, dmesg and exit status come out. A phase without exit status was lost, whatever the reason:

    VmTestFailed   the script of a phase exited with a status other than 0
    VmLost         panic, triple fault, hang, timeout: there is no status to speak of
    VmSetupError   this host cannot boot such a machine

Each phase but the first begins with a kexec done by the one before. docs/vm-tests.md shows how to write a test.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NoReturn

from .errors import VmError, VmLost, VmSetupError, VmTestFailed
from .initramfs import initramfs
from .kernels import REPO, Kernel, cache_dir, find_kernel
from .machine import Hardware, host_lock, running

__all__ = ["PhaseResult", "VmError", "VmLost", "VmResult", "VmSetupError", "VmTestFailed", "run_in_vm"]

# What it takes to get to the root; then what makes memmap=nn!ss memory a /dev/pmem0 (cheap: a few small files).
ROOT_MODULES = ("virtio_pci", "virtiofs", "fuse", "overlay")
PMEM_MODULES = ("libnvdimm", "nd_e820", "nd_pmem", "nd_btt")

# panic=-1 with -no-reboot makes QEMU exit at once, so that a panic need not wait for the timeout.
_BASE_CMDLINE = "console=ttyS0 quiet panic=-1 oops=panic random.trust_cpu=on mitigations=off cryptomgr.notests"

_DEATH = re.compile(r"Kernel panic - not syncing.*|BUG: .*|rig: .*|Oops: .*")
_LOG_TAIL_LINES = 30


@dataclass(frozen=True, slots=True)
class PhaseResult:
    """One script's run. Times in seconds: boot_s by the machine's clock from kernel start, script_s inside."""

    exit_status: int
    output: str
    dmesg: str
    boot_s: float
    script_s: float


@dataclass(frozen=True, slots=True)
class VmResult:
    """What a machine left behind: one PhaseResult per script, the files in $VM_OUT, and the serial console."""

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
class _Run:
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
        """The phase the machine was in last, 1 if it did not even get there."""
        return max((n for n in range(1, self.phases + 1) if self.report("started", n)), default=1)

    def console(self) -> str:
        path = self.dir / "console.log"
        return path.read_text(errors="replace") if path.exists() else ""


def run_in_vm(
    kernel: str | Kernel,
    script: str | None = None,
    *,
    phases: Sequence[str] = (),
    cmdline: str = "",
    memory_mib: int = 1024,
    cpus: int = 1,
    numa: Sequence[int] = (),
    modules: Iterable[str] = (),
    init: Literal["script", "systemd"] = "script",
    files: Mapping[str, bytes | str] | None = None,
    env: Mapping[str, str] | None = None,
    qemu_args: Sequence[str] = (),
    timeout_s: float = 120.0,
    check: bool = True,
) -> VmResult:
    """Boot kernel, run script (or phases, with a kexec between each two) in it, and return what happened.

    kernel      a name for scripts/vm-kernel, or a Kernel
    script      run by bash with errexit, nounset and pipefail unless it begins with #!; in the checkout, as root
    cmdline     appended to the kernel command line, after every kexec too
    memory_mib  size of the machine; numa: MiB per node instead, for a machine with as many NUMA nodes
    modules     kernel modules to load besides those for root and pmem
    init        "systemd": PID 1 is systemd and the script a service after basic.target
    files       put into $VM_IN; whatever the scripts leave in $VM_OUT is in VmResult.files
    env         more environment for the scripts
    timeout_s   for all phases together, waiting for another machine on this host not included
    check       False: return a failed phase as a result (the last one) instead of raising VmTestFailed

    Raises VmLost, VmTestFailed, VmSetupError; the first two name a directory that keeps everything.
    """
    if (script is None) == (not phases):
        raise ValueError("run_in_vm wants either script or phases")
    scripts = list(phases) if script is None else [script]
    found = find_kernel(kernel) if isinstance(kernel, str) else kernel
    archive = initramfs(found, (*ROOT_MODULES, *PMEM_MODULES, *modules))
    run = _Run(_new_run_dir(), len(scripts))
    _fill_shared_dir(run, scripts, found, archive, files or {}, env or {})
    full_cmdline = f"{_BASE_CMDLINE} rig.phase=1 rig.init={init} {cmdline}".strip()
    hardware = Hardware(tuple(numa) or (memory_mib,), cpus, tuple(qemu_args))
    with host_lock():
        start_s = time.monotonic()
        with running(hardware, found.image_path, archive, full_cmdline, run.dir, run.shared) as qemu:
            _wait(qemu, run, timeout_s)
        total_s = time.monotonic() - start_s
    result = _collect(run, total_s, check=check)
    if not os.environ.get("GUESTMEMFS_VM_KEEP"):
        shutil.rmtree(run.dir)
    return result


def _new_run_dir() -> Path:
    parent = Path(os.environ.get("GUESTMEMFS_VM_LOGS", cache_dir() / "vm-runs"))
    parent.mkdir(parents=True, exist_ok=True)
    # The running test's name makes a kept directory easy to find.
    test = re.sub(r"\W+", "-", os.environ.get("PYTEST_CURRENT_TEST", "").rpartition("::")[2].partition(" ")[0])
    return Path(tempfile.mkdtemp(prefix=f"{time.strftime('%m%d-%H%M%S')}-{test}-", dir=parent))


def _fill_shared_dir(
    run: _Run,
    scripts: Sequence[str],
    kernel: Kernel,
    archive: Path,
    files: Mapping[str, bytes | str],
    env: Mapping[str, str],
) -> None:
    for name in ("in", "out", "report"):
        (run.shared / name).mkdir(parents=True)
    for number, script in enumerate(scripts, 1):
        path = run.shared / f"script-{number}"
        path.write_text(script if script.startswith("#!") else _bash(script, number))
        path.chmod(0o755)
    for name, content in files.items():
        (run.shared / "in" / name).write_bytes(content.encode() if isinstance(content, str) else content)
    settings = {"VM_REPO": str(REPO), "VM_PHASES": str(len(scripts)), **env}
    lines = (f"export {name}={shlex.quote(value)}\n" for name, value in settings.items())
    (run.shared / "settings").write_text("".join(lines))
    for name, source in (("kernel", kernel.image_path), ("initramfs", archive)):
        try:
            os.link(source, run.shared / name)
        except OSError:
            shutil.copyfile(source, run.shared / name)


def _bash(script: str, number: int) -> str:
    # The trap names the line that failed: errexit alone says nothing.
    trap = f"trap 'echo \"script {number}: line $((LINENO - 3)): exit status $?\" >&2' ERR"
    return f"#!/bin/bash\nset -eEuo pipefail\n{trap}\n{script}\n"


def _wait(qemu: subprocess.Popen[bytes], run: _Run, timeout_s: float) -> None:
    try:
        status = qemu.wait(timeout_s)
    except subprocess.TimeoutExpired:
        _lost(run, f"still running after {timeout_s:g} s")
    if status != 0:
        stderr = (run.dir / "qemu.log").read_text(errors="replace").strip()
        _lost(run, f"QEMU exited with status {status}: {stderr[-1000:]}")


def _lost(run: _Run, reason: str) -> NoReturn:
    phase = run.phase
    raise VmLost(
        f"VM lost in phase {phase}: {reason}; logs in {run.dir}\n"
        f"{_tail('console', run.console())}{_tail('output', run.report('output', phase) or '')}",
        phase=phase,
        logs_dir=run.dir,
    )


def _tail(title: str, text: str) -> str:
    lines = text.rstrip().splitlines()[-_LOG_TAIL_LINES:]
    return "".join(f"  {title}| {line.rstrip()}\n" for line in lines)


def _collect(run: _Run, total_s: float, *, check: bool) -> VmResult:
    results: list[PhaseResult] = []
    for number in range(1, run.phases + 1):
        status = run.report("status", number)
        if status is None:
            death = _DEATH.findall(run.console())
            _lost(run, death[-1].strip() if death else "it stopped without a report")
        if not status.strip().isdigit():
            _lost(run, status.strip())
        result = _phase_result(run, number, int(status))
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


def _phase_result(run: _Run, number: int, exit_status: int) -> PhaseResult:
    boot_s = float(run.report("started", number) or "nan")
    return PhaseResult(
        exit_status=exit_status,
        output=run.report("output", number) or "",
        dmesg=run.report("dmesg", number) or "",
        boot_s=boot_s,
        script_s=float(run.report("finished", number) or "nan") - boot_s,
    )
