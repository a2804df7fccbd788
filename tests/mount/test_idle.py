"""What an instance costs a host while nothing happens: no wake-up of daemon or holder, and little memory."""

from __future__ import annotations

import os
import time
from pathlib import Path

from tests.cli import Instance

DEADLINE_S = 30.0
WATCHED_S = 3.0
WORKER_ENDS = 2
"""A thread of trio's that has waited 10 s for more work ends, once, after the last call that blocked."""
MIB = 1 << 20
DAEMON_BYTES, HOLDER_BYTES = 60 * MIB, 15 * MIB


def _switches(pid: int) -> dict[int, int]:
    """How often each thread of a process was switched to, voluntarily or not."""
    counts: dict[int, int] = {}
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            lines = Path(f"/proc/{pid}/task/{thread}/status").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended meanwhile
        counts[int(thread)] = sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)
    return counts


def _at_rest(pids: list[int]) -> bool:
    before = [_switches(pid) for pid in pids]
    time.sleep(0.5)
    return before == [_switches(pid) for pid in pids]


def test_an_idle_instance_never_wakes_up(instance: Instance) -> None:
    (instance.mountpoint / "vm1").touch()
    status = instance.status()
    pids = [status["daemon_pid"], status["holder_pid"]]
    deadline_s = time.monotonic() + DEADLINE_S
    while not _at_rest(pids):
        assert time.monotonic() < deadline_s, "what a start leaves to be done does not end"
    before = [_switches(pid) for pid in pids]
    time.sleep(WATCHED_S)
    for pid, then in zip(pids, before, strict=True):
        now = _switches(pid)
        assert now[pid] == then[pid], f"the main thread of {pid} woke up"
        others = {thread: now.get(thread, count) - count for thread, count in then.items()}
        assert sum(others.values()) <= WORKER_ENDS, others


def _resident_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS:"))


def test_a_small_instance_takes_little_memory_also_after_a_restart(instance: Instance) -> None:
    for number in range(10):
        with (instance.mountpoint / f"vm{number}").open("x") as file:
            os.truncate(file.fileno(), 2 * MIB)
    instance.cli.run("restart", instance.name)
    status = instance.status()
    assert _resident_bytes(status["daemon_pid"]) < DAEMON_BYTES
    assert _resident_bytes(status["holder_pid"]) < HOLDER_BYTES
