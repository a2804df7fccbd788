"""run_in_vm(): boot a kernel on this machine's own userland, run a script in it, bring back what it did.

The machine is QEMU under TCG. Its root is this machine's root over virtiofs, read-only, with a tmpfs overlay
on top: no image to build, the checkout and its .venv at their usual paths, and nothing written there stays.
The only way out is a directory shared with the host and written through: scripts go in, and for every phase a
start mark, output, dmesg and exit status come out. A phase without exit status was lost, whatever the reason:

    VmTestFailed   the script of a phase exited with a status other than 0
    VmLost         panic, triple fault, hang, timeout: there is no status to speak of
    VmSetupError   this host cannot boot such a machine

Each phase but the first begins with a kexec by the one before, or with a reboot by it: then QEMU ends and is
started again, with the same disk if there is one. docs/vm-tests.md says how to write a test.
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
from pathlib import Path
from typing import Literal

from .errors import VmError, VmLost, VmSetupError, VmTestFailed
from .initramfs import initramfs
from .kernels import REPO, Kernel, cache_dir, find_kernel
from .machine import Hardware, host_lock, running
from .report import PhaseResult, Run, VmResult, collect, lost

__all__ = ["PhaseResult", "VmError", "VmLost", "VmResult", "VmSetupError", "VmTestFailed", "run_in_vm"]

# What it takes to get to the root; then what makes memmap=nn!ss memory a /dev/pmem0 (cheap: a few files).
ROOT_MODULES = ("virtio_pci", "virtiofs", "fuse", "overlay")
PMEM_MODULES = ("libnvdimm", "nd_e820", "nd_pmem", "nd_btt")
DISK_MODULES = ("virtio_blk", "ext4")

# panic=-1 with -no-reboot makes QEMU exit at once, so that a panic need not wait for the timeout.
# no_timer_check, nowatchdog: a busy host stops the machine for so long that its kernel calls it broken.
# TERM is for PID 1: no colours in the console log.
_BASE_CMDLINE = (
    "console=ttyS0 quiet panic=-1 oops=panic no_timer_check nowatchdog rcupdate.rcu_cpu_stall_suppress=1"
    " random.trust_cpu=on mitigations=off cryptomgr.notests TERM=dumb"
)

_KEPT_RUNS = 20

# What vm-kexec boots; needless in the logs of a run.
_BOOT_FILES = ("kernel", "initramfs")


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
    between: Literal["kexec", "reboot", "soft-reboot"] = "kexec",
    disk_mib: int = 0,
    timeout_s: float = 300.0,
    check: bool = True,
) -> VmResult:
    """Boot kernel, run script (or phases, with a kexec between each two) in it, and return what happened.

    kernel      a name for scripts/vm-kernel, or a Kernel
    script      run as root in the checkout, by bash with errexit, nounset, pipefail unless it has its own #!
    cmdline     appended to the kernel command line, after every kexec too
    memory_mib  size of the machine; numa: MiB per node instead, for a machine with as many NUMA nodes
    modules     kernel modules to load besides those for root and pmem
    init        "systemd": PID 1 is systemd and the script a service after basic.target
    files       put into $VM_IN; whatever the scripts leave in $VM_OUT is in VmResult.files
    env         more environment for the scripts
    between     "reboot": a phase that exits 0 reboots the machine, and the firmware boots the next one;
                "soft-reboot": the kernel stays, and systemd (254 or later) starts userspace anew
    disk_mib    changes to the root go to a disk of this size instead of memory, and outlive a reboot
    timeout_s   for all phases together, waiting for another machine on this host not included
    check       False: return a failed phase as a result (the last one) instead of raising VmTestFailed

    Raises VmLost, VmTestFailed, VmSetupError; the first two name a directory that keeps everything.
    """
    if (script is None) == (not phases):
        raise ValueError("run_in_vm wants either script or phases")
    scripts = list(phases) if script is None else [script]
    found = find_kernel(kernel) if isinstance(kernel, str) else kernel
    archive = initramfs(found, (*ROOT_MODULES, *PMEM_MODULES, *(DISK_MODULES if disk_mib else ()), *modules))
    run = Run(_new_run_dir(), len(scripts))
    _fill_shared_dir(run, scripts, found, archive, files or {}, {**(env or {}), "VM_BETWEEN": between})
    words = f"rig.init={init} rig.disk={int(disk_mib > 0)} {cmdline}".strip()
    hardware = Hardware(tuple(numa) or (memory_mib,), cpus, (*qemu_args, *_disk(run, disk_mib)))
    boots = range(1, len(scripts) + 1 if between == "reboot" else 2)
    with host_lock():
        start_s = time.monotonic()
        try:
            for phase in boots:
                line = f"{_BASE_CMDLINE} rig.phase={phase} {words}"
                with running(hardware, found.image_path, archive, line, run.dir, run.shared) as qemu:
                    _wait(qemu, run, start_s, timeout_s)
                if run.status(phase) != 0:
                    break
        finally:
            for name in _BOOT_FILES:
                (run.shared / name).unlink()
        total_s = time.monotonic() - start_s
    result = collect(run, total_s, check=check)
    if not os.environ.get("GUESTMEMFS_VM_KEEP"):
        shutil.rmtree(run.dir)
    return result


def _new_run_dir() -> Path:
    parent = Path(os.environ.get("GUESTMEMFS_VM_LOGS", cache_dir() / "vm-runs"))
    parent.mkdir(parents=True, exist_ok=True)
    for old in sorted(parent.glob("*-*-*"), key=lambda path: path.stat().st_mtime)[:-_KEPT_RUNS]:
        shutil.rmtree(old, ignore_errors=True)
    # The running test's name makes a kept directory easy to find.
    test = re.sub(
        r"\W+", "-", os.environ.get("PYTEST_CURRENT_TEST", "").rpartition("::")[2].partition(" ")[0]
    )
    return Path(tempfile.mkdtemp(prefix=f"{time.strftime('%m%d-%H%M%S')}-{test}-", dir=parent))


def _fill_shared_dir(
    run: Run,
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
    settings["GUESTMEMFS_CACHE"] = str(cache_dir())
    lines = (f"export {name}={shlex.quote(value)}\n" for name, value in settings.items())
    (run.shared / "settings").write_text("".join(lines))
    for name, source in zip(_BOOT_FILES, (kernel.image_path, archive), strict=True):
        # A copy, not a link: the machine may write here.
        shutil.copyfile(source, run.shared / name)


def _disk(run: Run, disk_mib: int) -> list[str]:
    """QEMU's arguments for a disk with an empty filesystem; it goes with the run's directory."""
    if not disk_mib:
        return []
    command = ["mkfs.ext4", "-q", "-F", str(run.dir / "disk"), f"{disk_mib}M"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise VmSetupError(f"mkfs.ext4: {made.stderr.strip()}")
    return ["-drive", "file=disk,format=raw,if=virtio,cache=unsafe"]


def _bash(script: str, number: int) -> str:
    # The trap names the line that failed: errexit alone says nothing.
    trap = f"trap 'echo \"script {number}: line $((LINENO - 3)): exit status $?\" >&2' ERR"
    return f"#!/bin/bash\nset -eEuo pipefail\n{trap}\n{script}\n"


def _wait(qemu: subprocess.Popen[bytes], run: Run, start_s: float, timeout_s: float) -> None:
    try:
        status = qemu.wait(max(0.0, start_s + timeout_s - time.monotonic()))
    except subprocess.TimeoutExpired:
        lost(run, f"still running after {timeout_s:g} s")
    if status != 0:
        stderr = (run.dir / "qemu.log").read_text(errors="replace").strip()
        lost(run, f"QEMU exited with status {status}: {stderr[-1000:]}")
