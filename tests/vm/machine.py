"""The processes that make a virtual machine: two virtiofsd and one QEMU.

Owns their command lines, their life time and nothing else: what runs inside is told by kernel command line
and shared directory (rig.py). Invariants: whatever happens, none of them outlives `running()`, nor this
process (setpriv --pdeathsig). One machine at a time on a host, by a lock in the cache directory: this is TCG,
and two machines on two cores only make both time out.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from .errors import VmSetupError
from .kernels import cache_dir

# Debian 12's QEMU brings the C implementation; the Rust one of later releases takes the same -o options.
_VIRTIOFSD_PATHS = ("/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")
_STOP_TIMEOUT_S = 5.0
_SERVES_WITHIN_S = 60.0

# Everything QEMU can emulate, but for two features that only make emulation slower: a fifth level of page
# tables, and TLB tags that QEMU has no use for.
_TCG_CPU = "max,la57=off,pcid=off"


@dataclass(frozen=True, slots=True)
class Hardware:
    """What the machine is made of. numa_mib: memory per node (MiB), a single entry for no NUMA."""

    numa_mib: tuple[int, ...]
    cpus: int
    extra_args: tuple[str, ...]


def _program(name: str, candidates: Sequence[str] = ()) -> str:
    for candidate in (*candidates, shutil.which(name) or ""):
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    raise VmSetupError(f"no {name} on this machine: run scripts/vm-setup")


def qemu_args(hardware: Hardware, image: Path, initramfs: Path, cmdline: str) -> list[str]:
    """QEMU's command line; sockets are named relative to its working directory."""
    accel = os.environ.get("GUESTMEMFS_VM_ACCEL", "tcg")
    args = [
        _program("qemu-system-x86_64"),
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
    ]
    args += ["-machine", "q35", "-accel", accel, "-cpu", "host" if accel == "kvm" else _TCG_CPU]
    args += ["-smp", str(hardware.cpus), "-m", f"{sum(hardware.numa_mib)}M"]
    for node, size_mib in enumerate(hardware.numa_mib):
        # vhost-user means that virtiofsd reads guest memory: it must be shared.
        args += ["-object", f"memory-backend-memfd,id=ram{node},size={size_mib}M,share=on"]
        cpu = f",cpus={node}" if node < hardware.cpus else ""
        args += ["-numa", f"node,nodeid={node},memdev=ram{node}{cpu}"]
    for tag in ("root", "rig"):
        args += ["-chardev", f"socket,id={tag},path={tag}.sock"]
        args += ["-device", f"vhost-user-fs-pci,chardev={tag},tag={tag}"]
    # Appended to: a machine that is rebooted by its rig has one console.
    args += ["-chardev", "file,id=console,path=console.log,append=on", "-serial", "chardev:console"]
    args += ["-kernel", str(image), "-initrd", str(initramfs)]
    return [*args, "-append", cmdline, *hardware.extra_args]


def virtiofsd_args(tag: str, source: Path, cache: str) -> list[str]:
    """virtiofsd's command line. cache: always for what does not change, none for what is reported."""
    options = f"source={source},cache={cache},sandbox=chroot"
    return [_program("virtiofsd", _VIRTIOFSD_PATHS), f"--socket-path={tag}.sock", "-o", options]


@contextmanager
def host_lock() -> Iterator[None]:
    """Wait for our turn to run a machine on this host."""
    cache_dir().mkdir(parents=True, exist_ok=True)
    with (cache_dir() / "machine.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _child(args: Sequence[str], cwd: Path, log_name: str) -> Iterator[subprocess.Popen[bytes]]:
    with (cwd / log_name).open("ab") as log:
        process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", *args],
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_for_socket(path: Path, owner: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + _SERVES_WITHIN_S
    while not path.exists():
        if owner.poll() is not None or time.monotonic() > deadline_s:
            raise VmSetupError(
                f"virtiofsd does not serve {path.stem}: {log.read_text(errors='replace')[-500:]}"
            )
        time.sleep(0.005)


def _serve(stack: ExitStack, tag: str, source: Path, cache: str, run_dir: Path) -> None:
    """Start a virtiofsd, also right behind one of a run that was killed: they share a locked pid file."""
    log, sock = run_dir / f"virtiofsd-{tag}.log", run_dir / f"{tag}.sock"
    deadline_s = time.monotonic() + 2 * _STOP_TIMEOUT_S
    while True:
        sock.unlink(missing_ok=True)
        daemon = stack.enter_context(_child(virtiofsd_args(tag, source, cache), run_dir, log.name))
        try:
            _wait_for_socket(sock, daemon, log)
            return
        except VmSetupError as error:
            if "Cannot lock pid file" not in str(error) or time.monotonic() > deadline_s:
                raise
            log.unlink()
            time.sleep(0.2)


@contextmanager
def running(
    hardware: Hardware, image: Path, initramfs: Path, cmdline: str, run_dir: Path, shared_dir: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a machine; yields QEMU's process, and ends everything on leaving.

    run_dir gets console.log, qemu.log and virtiofsd-*.log. Raises VmSetupError when virtiofsd cannot serve.
    """
    with ExitStack() as stack:
        for tag, source, cache in (("root", Path("/"), "always"), ("rig", shared_dir, "none")):
            _serve(stack, tag, source, cache, run_dir)
        yield stack.enter_context(_child(qemu_args(hardware, image, initramfs, cmdline), run_dir, "qemu.log"))
