"""Probes of memory: private tmpfs with huge pages, hugetlb pools, NUMA nodes, how much there is.

Everything allocated here is on a detached mount or mapping and gone when the probe returns.
"""

from __future__ import annotations

import os

from guestmemfs_fuse.linux import coverage, hugepages, memory, mount
from guestmemfs_fuse.linux.hugepages import page_size_text
from guestmemfs_fuse.linux.probe import Finding, Probe, guarded

_BLOCK_BYTES = 2 << 20
_PRIVATE = "needs root in the initial user namespace and CONFIG_TRANSPARENT_HUGEPAGE=y"


def tmpfs_huge() -> Probe:
    """Whether a tmpfs of our own gives a PMD-sized page, whatever the host's shmem_enabled says."""

    def find() -> Finding:
        options = {"huge": "always", "size": "8M", "mode": "0700"}
        mount_fd = mount.new_filesystem("tmpfs", options)
        try:
            fd = _unnamed(mount_fd)
            try:
                memory.fallocate(fd, 0, 0, _BLOCK_BYTES)
                found = coverage.file_coverage(fd)
            finally:
                os.close(fd)
        finally:
            os.close(mount_fd)
        ok = found.huge_bytes == _BLOCK_BYTES
        detail = f"{found.huge_bytes >> 10} of {found.resident_bytes >> 10} KiB in a huge page"
        return ok, detail, "free memory is fragmented: echo 1 > /proc/sys/vm/compact_memory and try again"

    return guarded("tmpfs-huge", find, _PRIVATE)


def tmpfs_noswap() -> Probe:
    """Whether tmpfs can be kept out of swap."""

    def find() -> Finding:
        os.close(mount.new_filesystem("tmpfs", {"noswap": None, "size": "4k"}))
        return True, "tmpfs takes the option noswap", None

    return guarded("tmpfs-noswap", find, "boot a kernel >= 6.4, or run without swap (swapoff -a)")


def tmpfs_unlinked() -> Probe:
    """Whether a file without a name can be made on a tmpfs that is mounted nowhere (memfd regions)."""

    def find() -> Finding:
        mount_fd = mount.new_filesystem("tmpfs", {"size": "8M"})
        try:
            fd = _unnamed(mount_fd)
        finally:
            os.close(mount_fd)
        try:
            # The file must outlive its mount: that is what the fd store relies on.
            os.pwrite(fd, b"x", 0)
            links = os.fstat(fd).st_nlink
        finally:
            os.close(fd)
        return links == 0, f"O_TMPFILE on a detached tmpfs: {links} links", "needs CONFIG_TMPFS=y"

    return guarded("tmpfs-unlinked", find, _PRIVATE)


def hugetlb(page_bytes: int) -> Probe:
    """Whether the pool of this page size has pages to give."""
    name = f"hugetlb-{page_size_text(page_bytes)}"
    fix = _pool_fix(page_bytes)

    def find() -> Finding:
        pools = [pool for pool in hugepages.read_pools() if pool.page_bytes == page_bytes]
        if not pools:
            return False, "the kernel or CPU has no such page size", fix
        pool = pools[0]
        os.close(mount.new_filesystem("hugetlbfs", {"pagesize": page_size_text(page_bytes)}))
        hvo = {None: "", True: ", HVO on", False: ", HVO off"}[hugepages.optimizes_vmemmap()]
        detail = f"{pool.available} of {pool.total} pages free, overcommit {pool.overcommit}{hvo}"
        return pool.available > 0 or pool.overcommit > pool.surplus, detail, fix

    return guarded(name, find, fix)


def available() -> Probe:
    """How much memory can be given to a region now."""

    def find() -> Finding:
        free_bytes = _meminfo("MemAvailable")
        detail = f"{free_bytes >> 20} of {_meminfo('MemTotal') >> 20} MiB available"
        return free_bytes >= 64 << 20, detail, "free some memory"

    return guarded("memory", find)


def numa() -> Probe:
    """The NUMA nodes and the memory of each; for information."""

    def find() -> Finding:
        nodes = [(node, hugepages.node_memory_bytes(node)[0]) for node in hugepages.nodes()]
        parts = [f"node {node}: {total >> 20} MiB" for node, total in nodes if total]
        if not parts:
            return False, "no NUMA node has memory", "leave --numa-node out"
        more = f", {len(parts) - 3} more" if len(parts) > 3 else ""
        return True, ", ".join(parts[:3]) + more, None

    return guarded("numa", find, "leave --numa-node out (needs CONFIG_NUMA=y)")


def _pool_fix(page_bytes: int) -> str:
    if page_bytes == 2 << 20:
        return "mount with --reserve; or: sysctl vm.nr_hugepages=PAGES (PAGES = size / 2M)"
    return (
        "mount with --reserve, while memory is not fragmented;"
        f" or boot with hugepagesz={page_size_text(page_bytes)} hugepages=PAGES"
    )


def _unnamed(mount_fd: int) -> int:
    return os.open(".", os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=mount_fd)


def _meminfo(name: str) -> int:
    with open("/proc/meminfo") as file:
        for line in file:
            key, _, value = line.partition(":")
            if key == name:
                return int(value.split()[0]) * 1024
    raise OSError(f"/proc/meminfo has no {name}")
