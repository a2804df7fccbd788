"""What a process of ours uses and does, from /proc. Called by the life-cycle area."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """smaps_rollup: resident, and the share when pages are divided by how many map them."""

    resident_bytes: float
    share_bytes: float


@dataclass(frozen=True, slots=True)
class Activity:
    """switches: how often its threads were put on a CPU again after they had slept; cpu_ns: used so far."""

    switches: int
    cpu_ns: float


def memory(pid: int) -> MemoryUse:
    """Raises OSError when there is no such process."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    found = dict(re.findall(r"^(\w+):\s+(\d+) kB", text, re.MULTILINE))
    return MemoryUse(int(found["Rss"]) * 1024.0, int(found["Pss"]) * 1024.0)


def wait_for_one_thread(pid: int, timeout_s: float) -> None:
    """Until only the main thread is left: trio ends its workers when they had nothing to do for 10 s.

    What threads did is counted with them, and a thread that ends in between would take its count along.
    Returns at timeout_s all the same. Raises OSError when there is no such process.
    """
    deadline_s = time.monotonic() + timeout_s
    while len(os.listdir(f"/proc/{pid}/task")) > 1 and time.monotonic() < deadline_s:
        time.sleep(0.1)


def activity(pid: int) -> Activity:
    """Raises OSError when there is no such process. schedstat(5): nanoseconds on a CPU come first."""
    switches, cpu_ns = 0, 0.0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        text = (thread / "status").read_text()
        switches += sum(map(int, re.findall(r"^voluntary_ctxt_switches:\s+(\d+)", text, re.MULTILINE)))
        try:
            cpu_ns += float((thread / "schedstat").read_text().split()[0])
        except FileNotFoundError:  # a kernel without CONFIG_SCHED_INFO
            ticks = (thread / "stat").read_text().rpartition(")")[2].split()[11:13]
            cpu_ns += sum(map(int, ticks)) * 1e9 / os.sysconf("SC_CLK_TCK")
    return Activity(switches, cpu_ns)
