"""Runs inside a VM with two NUMA nodes (test_numa.py): where do a region's pages come from?

Memory is touched by this process, which is bound to the other node, so that a page which is not bound comes
from there. Writes one JSON object: what was tried -> MiB per node.
"""

from __future__ import annotations

import json
import mmap
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from guestmemfs_fuse.linux import memory

from .inside_instances import COMMAND, MIB, STATE, ask, extents, kill_daemon, mount, run, sized

POOL = "/sys/devices/system/node/node{}/hugepages/hugepages-2048kB/{}"


def pool(node: int, name: str = "nr_hugepages") -> int:
    return int(Path(POOL.format(node, name)).read_text())


def touched(path: Path, offset_bytes: int, length_bytes: int) -> dict[str, int]:
    """MiB per node of a range of a file, all of it touched from node 0."""
    protection = memory.PROT_READ | memory.PROT_WRITE
    fd = os.open(path, os.O_RDWR)
    try:
        with memory.Mapping(fd, length_bytes, prot=protection, offset_bytes=offset_bytes) as view:
            for at in range(0, length_bytes, 4096):
                view.write(at, b"x")
            start = f"{view.address:x}"
            (line,) = [
                each
                for each in Path("/proc/self/numa_maps").read_text().splitlines()
                if each.split()[0].lstrip("0") == start
            ]
    finally:
        os.close(fd)
    page_kib = int(re.search(r"kernelpagesize_kB=(\d+)", line)[1])  # type: ignore[index]
    return {node: int(pages) * page_kib >> 10 for node, pages in re.findall(r" N(\d+)=(\d+)", line)}


def of_file(name: str) -> dict[str, int]:
    """The same for a file of the hugetlb instance, through the region file."""
    total: dict[str, int] = {}
    for offset, length in extents("huge", name):
        for node, mib in touched(STATE / "huge/region/region", offset, length).items():
            total[node] = total.get(node, 0) + mib
    return total


def shmem(found: dict[str, Any], kind: str) -> None:
    directory = mount(kind, "--region", kind, "--size", "64M", "--numa-node", "1")
    found[kind] = touched(sized(directory / "ram", 32), 0, 32 * MIB)


def hugetlb(found: dict[str, Any]) -> None:
    directory = mount("huge", "--region", "hugetlb", "--size", "64M", "--numa-node", "1", "--reserve")
    found["pool"] = [pool(0), pool(1)]
    # Enough pages on the wrong node, for whoever would take them.
    Path(POOL.format(0, "nr_hugepages")).write_text("32")
    first = sized(directory / "first", 32)
    found["hugetlb"] = of_file("/first")
    run("fallocate", "--punch-hole", "-o", "0", "-l", str(16 * MIB), str(first))
    found["punched"] = of_file("/first")
    first.unlink()
    sized(directory / "second", 48)
    found["again"] = of_file("/second")
    kill_daemon("huge")
    sized(directory / "third", 16)
    found["after SIGKILL"] = of_file("/third")
    (directory / "second").unlink()
    ask("huge", "status")
    robbed(found, directory)
    sized(directory / "fifth", 48)
    found["given back"] = of_file("/fifth")
    run(COMMAND, "umount", "huge")
    run(COMMAND, "destroy", "huge", "--yes")
    found["pool at the end"] = pool(1)


def robbed(found: dict[str, Any], directory: Path) -> None:
    """Somebody takes the node's free pages: a file that cannot be had there is refused, not put elsewhere."""
    length = pool(1, "free_hugepages") * 2 * MIB
    flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | 0x40000  # MAP_HUGETLB
    with memory.allocating_on(1), mmap.mmap(-1, length, flags) as loot:
        for at in range(0, length, 2 * MIB):
            loot[at] = 1
        found["left on the node"] = pool(1, "free_hugepages")
        file = directory / "fourth"
        try:
            sized(file, 48)
            found["robbed"] = of_file("/fourth")
        except OSError as error:
            found["robbed"] = os.strerror(error.errno or 0)
        found["robbed size"] = file.stat().st_size
    file.unlink()


def main() -> None:
    os.sched_setaffinity(0, {0})
    found: dict[str, Any] = {}
    try:
        shmem(found, "tmpfs")
        shmem(found, "memfd")
        hugetlb(found)
    except subprocess.CalledProcessError as error:
        print(error)
        raise
    finally:
        Path(sys.argv[1]).write_text(json.dumps(found))
        print(json.dumps(found))


if __name__ == "__main__":
    main()
