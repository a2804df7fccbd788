"""How much memory the host can still give, so that an allocation is refused before the OOM killer acts.

A tmpfs without swap takes pages until the kernel kills somebody (mm/shmem.c charges no commit limit for
it), so we look first. Called by the regions that allocate from the page allocator.
"""

from __future__ import annotations

from typing import Final

from guestmemfs_fuse.core.errors import OutOfMemoryError

RESERVE_BYTES: Final = 64 << 20
"""Left to the host when we decide whether an allocation fits."""


def available_bytes(numa_node: int | None = None) -> int:
    """What can be allocated without pushing the host into reclaim trouble, in bytes.

    numa_node: only memory of that node. Source: MemAvailable of proc(5), node meminfo of sysfs.
    """
    if numa_node is None:
        return _field("/proc/meminfo", "MemAvailable") - RESERVE_BYTES
    path = f"/sys/devices/system/node/node{numa_node}/meminfo"
    return _field(path, "MemFree") + _field(path, "FilePages") - _field(path, "Shmem") - RESERVE_BYTES


def total_bytes() -> int:
    """All memory the kernel manages, in bytes."""
    return _field("/proc/meminfo", "MemTotal")


def require_size(size_bytes: int) -> None:
    """Raise OutOfMemoryError for a region of more memory than there is at all."""
    has_bytes = total_bytes()
    if size_bytes > has_bytes:
        raise OutOfMemoryError(
            f"a region of {size_bytes >> 20} MiB does not fit into the {has_bytes >> 20} MiB of this host",
            hint="choose a smaller --size",
        )


def _field(path: str, name: str) -> int:
    """Of a file of lines with `NAME:  KIBIBYTES kB`, less than a page long."""
    with open(path, "rb", buffering=0) as file:
        _, found, rest = file.read(1 << 14).partition(b"%b:" % name.encode())
    if not found:
        raise LookupError(f"{path} has no {name}")
    return int(rest.split(maxsplit=1)[0]) * 1024
