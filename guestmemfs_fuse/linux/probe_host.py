"""Probes of the host: privilege, fsdax, live update, kexec, systemd, ptrace, KVM.

Only throwaway objects are touched; the kexec probe makes a call that the kernel refuses before doing
anything, and the live update device is not opened, because only one process can have it open.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import os
import re
import shutil
import stat

from guestmemfs_fuse.linux import libc, liveupdate, mountinfo, process
from guestmemfs_fuse.linux.privilege import NEEDS_ROOT, lacking_privilege
from guestmemfs_fuse.linux.probe import Finding, Probe, describe, guarded

_DAX_FILESYSTEMS = ("ext4", "xfs", "ext2", "erofs", "virtiofs")
_KVM_CREATE_VM = 0xAE01
_NO_FLAG = 1 << 31  # no kexec_file_load flag has this bit

MEMMAP_LINE = "kernel command line: memmap=4G!8G (4 GiB of RAM at 8 GiB become /dev/pmem0)"
MKFS_LINE = "mkfs.ext4 -b 4096 -O bigalloc -C 2M /dev/pmem0"
MOUNT_LINE = "mount -o dax=always /dev/pmem0 /mnt/guest-ram, then --region dax --dax-dir /mnt/guest-ram"


def privilege() -> Probe:
    """Whether we have CAP_SYS_ADMIN where it counts: in the initial user namespace."""

    def find() -> Finding:
        if (lacking := lacking_privilege()) is not None:
            return False, lacking, NEEDS_ROOT
        return True, f"uid {os.geteuid()} with CAP_SYS_ADMIN in the initial user namespace", None

    return guarded("privilege", find, NEEDS_ROOT)


def fsdax() -> Probe:
    """Whether a filesystem with DAX is mounted."""

    def find() -> Finding:
        mounted = [m for m in mountinfo.read_mounts() if is_dax_mount(m)]
        if mounted:
            places = ", ".join(f"{m.mountpoint} ({m.fstype} on {m.source})" for m in mounted[:2])
            return True, places, None
        devices = sorted(glob.glob("/dev/pmem*"))
        if devices:
            detail = f"{devices[0]} is there, no filesystem with DAX is mounted"
            return False, detail, f"{MKFS_LINE}; {MOUNT_LINE}".replace("/dev/pmem0", devices[0])
        if memmap_argument(_command_line()):
            detail = "memmap= is on the command line, but there is no /dev/pmem*"
            return False, detail, "modprobe nd_e820 nd_pmem; the range must be RAM and aligned to 128M"
        detail = "no DAX mount, no /dev/pmem*, no memmap= argument"
        return False, detail, f"{MEMMAP_LINE}; {MKFS_LINE}; {MOUNT_LINE}"

    return guarded("fsdax", find)


def is_dax_mount(entry: mountinfo.MountEntry) -> bool:
    """Whether files there are DAX by default: "dax" or "dax=always" among the superblock options."""
    return entry.fstype in _DAX_FILESYSTEMS and entry.super_option("dax") in ("", "always")


def memmap_argument(command_line: str) -> str | None:
    """The memmap=SIZE!START argument that turns RAM into a pmem device, if there is one."""
    for word in command_line.split():
        if word.startswith("memmap=") and "!" in word:
            return word
    return None


def liveupdate_device() -> Probe:
    """Whether the kernel's live update orchestrator is on."""
    fix = (
        "boot a kernel >= 6.19 with CONFIG_KEXEC_HANDOVER, CONFIG_LIVEUPDATE and CONFIG_LIVEUPDATE_MEMFD,"
        " command line: kho=on liveupdate=on"
    )

    def find() -> Finding:
        mode = os.stat(liveupdate.DEVICE_PATH).st_mode
        return stat.S_ISCHR(mode), f"{liveupdate.DEVICE_PATH} is there", fix

    return guarded("liveupdate", find, fix)


def kexec() -> Probe:
    """Whether another kernel can be started from this one."""
    fix = "needs CONFIG_KEXEC_FILE=y, root, kernel.kexec_load_disabled=0 and no lockdown"

    def find() -> Finding:
        try:
            # Privilege is checked first, then the flags: EINVAL means that we would be let in.
            libc.syscall("kexec_file_load", -1, -1, 0, None, _NO_FLAG)
        except OSError as error:
            if error.errno != errno.EINVAL:
                return False, describe(error), fix
        if shutil.which("kexec") is None:
            return False, "the kernel can, the kexec command is missing", "apt install kexec-tools"
        return True, "kexec_file_load is permitted, the kexec command is there", None

    return guarded("kexec", find, fix)


def systemd() -> Probe:
    """Whether systemd runs this host, and so can keep the file descriptors."""
    fix = "nothing to do: `guestmemfs mount` starts a holder process in its place"

    def find() -> Finding:
        with open("/proc/1/comm") as file:
            first = file.read().strip()
        if not os.path.isdir("/run/systemd/system"):
            return False, f"PID 1 is {first}, not systemd", fix
        store = "with an fd store here" if os.environ.get("NOTIFY_SOCKET") else "fd store for units"
        return True, f"PID 1 is systemd {_systemd_version()}, {store}", None

    return guarded("systemd", find, fix)


def _systemd_version() -> str:
    import subprocess

    try:
        done = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, timeout=5)
    except (OSError, subprocess.TimeoutExpired):
        return "(version unknown)"
    words = done.stdout.split()
    return words[1] if len(words) > 1 else "(version unknown)"


def ptrace() -> Probe:
    """Whether we can trace a child of ours, which is what `guestmemfs run` does."""
    fix = "sysctl kernel.yama.ptrace_scope=1 (0, 1 or 2 will do for root); needs CAP_SYS_PTRACE in containers"

    def find() -> Finding:
        machine = os.uname().machine
        if machine != "x86_64":
            return (
                False,
                f"`guestmemfs run` knows x86_64 only, this is {machine}",
                "use a region with passthrough",
            )
        process.trace_a_child()
        return True, f"a child can be traced{_yama()}", None

    return guarded("ptrace", find, fix)


def _yama() -> str:
    try:
        with open("/proc/sys/kernel/yama/ptrace_scope") as file:
            return f" (yama ptrace_scope {file.read().strip()})"
    except FileNotFoundError:
        return ""


def kvm() -> Probe:
    """Whether hardware virtualization is usable; for information, QEMU does without by TCG."""
    fix = "use a host with VT-x or AMD-V (or nested virtualization) and load kvm_intel or kvm_amd"

    def find() -> Finding:
        device_fd = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
        try:
            os.close(fcntl.ioctl(device_fd, _KVM_CREATE_VM, 0))
        finally:
            os.close(device_fd)
        with open("/proc/cpuinfo") as file:
            text = file.read()
        if os.uname().machine == "x86_64" and not re.search(r"^flags\b.*\b(vmx|svm)\b", text, re.MULTILINE):
            # Software nesting (kvm_pvm) makes virtual machines that stock kernels do not boot in.
            return False, "makes a VM, but the CPU has neither vmx nor svm", fix
        return True, "/dev/kvm makes a virtual machine", None

    return guarded("kvm", find, fix)


def _command_line() -> str:
    with open("/proc/cmdline") as file:
        return file.read()
