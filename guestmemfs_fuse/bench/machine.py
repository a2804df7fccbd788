"""Which machine it was: what a reader needs to judge the figures, and what was going on at the start."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import time
from importlib import metadata
from pathlib import Path

from guestmemfs_fuse.linux import hugepages
from guestmemfs_fuse.region import host_memory

_REPORTING = 5
"""Feature bit of virtio_balloon (uapi/linux/virtio_balloon.h)."""


def describe() -> dict[str, object]:
    """Figures and names for Results.machine; nothing in it names the host or its owner."""
    thp = hugepages.thp_settings()
    return {
        "date": time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime()),
        "kernel": platform.release(),
        "architecture": platform.machine(),
        "cpu": _cpu_field("model name") or "unknown",
        "hypervisor": "hypervisor" in (_cpu_field("flags") or "").split(),
        "free_page_reporting": _reports_free_pages(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_bytes": host_memory.total_bytes(),
        "available_bytes": host_memory.available_bytes(),
        "load_1min": round(os.getloadavg()[0], 2),
        "thp_enabled": thp.enabled,
        "thp_shmem_enabled": thp.shmem_enabled,
        "thp_defrag": thp.defrag,
        "python": platform.python_version(),
        "pyfuse3": _version("pyfuse3"),
        "qemu": _qemu_version(),
    }


def _cpu_field(name: str) -> str | None:
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        found = re.search(rf"^{name}\s*: (.*)$", file.read(), re.MULTILINE)
    return found[1].strip() if found else None


def _reports_free_pages() -> bool:
    """Whether the hypervisor is told of free pages, and takes them back: VIRTIO_BALLOON_F_REPORTING."""
    for device in Path("/sys/bus/virtio/drivers/virtio_balloon").glob("virtio*"):
        if (device / "features").read_text()[_REPORTING] == "1":
            return True
    return False


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _qemu_version() -> str | None:
    qemu = shutil.which("qemu-system-x86_64")
    if qemu is None:
        return None
    text = subprocess.run([qemu, "--version"], capture_output=True, text=True).stdout
    found = re.search(r"version (\S+)", text)
    return found[1] if found else None
