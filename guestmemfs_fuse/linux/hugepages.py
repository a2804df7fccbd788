"""Huge-page pools and transparent huge-page settings, from sysfs.

Values are read when asked, nothing is cached. Called by the hugetlb region and the probes. Sources:
Documentation/admin-guide/mm/hugetlbpage.rst, transhuge.rst; sysctl vm.hugetlb_optimize_vmemmap.
The `sys` arguments exist so that tests can show a tree of their own.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

_POOL = re.compile(r"hugepages-(\d+)kB")
_NODE = re.compile(r"node(\d+)")


@dataclass(frozen=True, slots=True)
class Pool:
    """One hugetlb pool: of a page size, on all nodes (node None) or on one; counts are in pages."""

    page_bytes: int
    node: int | None
    total: int
    free: int
    reserved: int
    surplus: int
    overcommit: int

    @property
    def available(self) -> int:
        """Pages that are neither used nor promised."""
        return max(0, self.free - self.reserved)


@dataclass(frozen=True, slots=True)
class ThpSettings:
    """The chosen words of /sys/kernel/mm/transparent_hugepage; None where the kernel has no such file."""

    enabled: str | None
    shmem_enabled: str | None
    defrag: str | None


def parse_choice(text: str) -> str | None:
    """The word in brackets: "always [madvise] never" is "madvise"."""
    match = re.search(r"\[([^\]]+)\]", text)
    return match[1] if match else None


def page_size_text(page_bytes: int) -> str:
    """A page size as the kernel's options, and --page-size, spell it: 2M, 1G."""
    return f"{page_bytes >> 30}G" if page_bytes >> 30 else f"{page_bytes >> 20}M"


def read_pools(sys: str = "/sys") -> list[Pool]:
    """Pools of all page sizes over all nodes, smallest page first; empty without hugetlb."""
    return _pools(f"{sys}/kernel/mm/hugepages", None)


def read_node_pools(sys: str = "/sys") -> list[Pool]:
    """Pools per NUMA node and page size."""
    pools = []
    for node in nodes(sys):
        pools += _pools(f"{sys}/devices/system/node/node{node}/hugepages", node)
    return pools


def nodes(sys: str = "/sys") -> list[int]:
    """NUMA node numbers, also those without memory."""
    return _numbered(f"{sys}/devices/system/node", _NODE)


def node_memory_bytes(node: int, sys: str = "/sys") -> tuple[int, int]:
    """(total, free) memory of a node in bytes. Raises OSError when there is no such node."""
    with open(f"{sys}/devices/system/node/node{node}/meminfo") as file:
        values = dict(re.findall(r"(\w+):\s+(\d+) kB", file.read()))
    return int(values.get("MemTotal", 0)) * 1024, int(values.get("MemFree", 0)) * 1024


def set_pool(page_bytes: int, pages: int, node: int | None = None, sys: str = "/sys") -> int:
    """Ask for `pages` pages in a pool. Returns how many there are now: the kernel may manage fewer.

    Raises OSError: ENOENT when there is no such page size or node, EACCES/EROFS when we may not.
    """
    path = pool_path(page_bytes, node, sys)
    with open(path, "r+") as file:
        file.write(str(pages))
    return _number(path)


def pool_path(page_bytes: int, node: int | None = None, sys: str = "/sys") -> str:
    """The file that holds a pool's size."""
    return _pool_dir(page_bytes, node, sys) + "/nr_hugepages"


def optimizes_vmemmap(proc: str = "/proc") -> bool | None:
    """Whether new huge pages drop their struct pages (HVO); None when the kernel cannot."""
    try:
        return bool(_number(f"{proc}/sys/vm/hugetlb_optimize_vmemmap"))
    except FileNotFoundError:
        return None


def thp_settings(sys: str = "/sys") -> ThpSettings:
    """The host-wide transparent huge-page switches."""
    base = f"{sys}/kernel/mm/transparent_hugepage"
    return ThpSettings(*(_choice(f"{base}/{name}") for name in ("enabled", "shmem_enabled", "defrag")))


def _pool_dir(page_bytes: int, node: int | None, sys: str) -> str:
    place = "kernel/mm" if node is None else f"devices/system/node/node{node}"
    return f"{sys}/{place}/hugepages/hugepages-{page_bytes // 1024}kB"


def _pools(directory: str, node: int | None) -> list[Pool]:
    return [
        _pool(f"{directory}/hugepages-{size}kB", size * 1024, node) for size in _numbered(directory, _POOL)
    ]


def _pool(directory: str, page_bytes: int, node: int | None) -> Pool:
    def number(name: str) -> int:
        # Node pools have fewer files than the host-wide ones.
        return _number(f"{directory}/{name}") if os.path.exists(f"{directory}/{name}") else 0

    return Pool(
        page_bytes=page_bytes,
        node=node,
        total=number("nr_hugepages"),
        free=number("free_hugepages"),
        reserved=number("resv_hugepages"),
        surplus=number("surplus_hugepages"),
        overcommit=number("nr_overcommit_hugepages"),
    )


def _numbered(directory: str, pattern: re.Pattern[str]) -> list[int]:
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return sorted(int(m[1]) for m in map(pattern.fullmatch, names) if m)


def _number(path: str) -> int:
    with open(path) as file:
        return int(file.read())


def _choice(path: str) -> str | None:
    try:
        with open(path) as file:
            return parse_choice(file.read())
    except FileNotFoundError:
        return None
