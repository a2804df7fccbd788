"""Area 5, life cycle: starting, being replaced, being killed, and what it costs to just be there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial

from guestmemfs_fuse.bench import processes
from guestmemfs_fuse.bench.area import Collector
from guestmemfs_fuse.bench.measure import Figures
from guestmemfs_fuse.bench.results import OURS, Area, Target
from guestmemfs_fuse.bench.rig import Bench, Instance
from guestmemfs_fuse.bench.scale import MIB, Scale

PYTHON = "python importing trio and pyfuse3"
STALL_FEW = Target("under 150 ms", 150e6, "figure")
STALL_MANY = Target("under 1 s", 1e9, "figure")
DAEMON_RSS = Target("under 60 MiB", 60 * MIB, "figure")
HOLDER_RSS = Target("under 15 MiB", 15 * MIB, "figure")
NO_GROWTH = Target("no growth (under 1 MiB)", 1 * MIB, "figure")
NO_WAKEUPS = Target("none", 0, "figure")

FEW_FILES, MANY_FILES = 10, 100_000
_SETTLE_S = 0.5
_WORKERS_END_S = 15.0


def measure(bench: Bench, scale: Scale) -> Area:
    """Run the area."""
    out = Collector("lifecycle", "Life cycle", bench.say, scale.part_s, x_name="files", x_unit="files")
    out.note(
        "Stall: the longest of the calls of one client that stats a file past all caches, with a millisecond "
        "between two calls, from before the restart (or SIGKILL) until after it."
    )
    _idle(bench, scale, out)
    _mounting(bench, scale, out)
    _stalls(bench, scale, out, "restart", "stall of `restart`", _restart)
    _stalls(bench, scale, out, "killed", "stall after SIGKILL of the daemon", _kill)
    _memory(bench, scale, out)
    return out.area()


# -- starting and being replaced ---------------------------------------------------------------------------


def _mounting(bench: Bench, scale: Scale, out: Collector) -> None:
    def mount() -> Figures:
        began_ns = time.perf_counter_ns()
        made = bench.instance("fresh", 64 * MIB)
        took_ns = time.perf_counter_ns() - began_ns
        made.destroy()
        return {"mount": took_ns}

    def interpreter() -> Figures:
        began_ns = time.perf_counter_ns()
        subprocess.run([sys.executable, "-c", "import trio, pyfuse3"], check=True)
        return {"mount": time.perf_counter_ns() - began_ns}

    samples = out.interleave("mounting", scale.life_rounds, {OURS: mount, PYTHON: interpreter})
    out.row("mount", "`mount` of a new instance until it serves", "ns", samples["mount"], control=PYTHON)


def _stalls(
    bench: Bench,
    scale: Scale,
    out: Collector,
    metric: str,
    title: str,
    disturb: Callable[[Instance], None],
) -> None:
    def one(count: int) -> Figures:
        instance = bench.filled(count)
        with bench.watching(instance.mountpoint / "d0" / "file-000000") as found:
            disturb(instance)
            time.sleep(_SETTLE_S / 10)
        return found

    turns = {str(count): partial(one, count) for count in scale.file_counts}
    samples = out.interleave(title, scale.life_rounds, turns, warmup=0)["longest_ns"]
    for count in scale.file_counts:
        target = None
        if metric == "restart" and count <= FEW_FILES:
            target = STALL_FEW
        elif metric == "restart":
            target = STALL_MANY
        out.row(
            metric, f"{title}, {count:,} files", "ns", {OURS: samples[str(count)]}, x=count, target=target
        )


def _restart(instance: Instance) -> None:
    instance.bench.guestmemfs("restart", instance.name)


def _kill(instance: Instance) -> None:
    """Wait by one call that the next daemon answers: polling would take CPU from what is timed."""
    os.kill(_pids(instance)["daemon"], signal.SIGKILL)
    instance.bench.run("calls", "ask", instance.mountpoint)


# -- just being there --------------------------------------------------------------------------------------


def _idle(bench: Bench, scale: Scale, out: Collector) -> None:
    """First of all, while there is just one instance that did nothing much yet."""
    instance = bench.filled(min(scale.file_counts))
    pids = _pids(instance)
    time.sleep(_SETTLE_S)
    bench.say(f"lifecycle: doing nothing for {scale.idle_s:g} s")
    for pid in pids.values():
        processes.wait_for_one_thread(pid, _WORKERS_END_S)
    before = {role: processes.activity(pid) for role, pid in pids.items()}
    time.sleep(scale.idle_s)
    after = {role: processes.activity(pid) for role, pid in pids.items()}
    for role in pids:
        wakeups = after[role].switches - before[role].switches
        title = f"wake-ups of the idle {role} in {scale.idle_s:g} s"
        out.row(f"{role}_wakeups", title, "count", {OURS: [float(wakeups)]}, target=NO_WAKEUPS)
        cpu_ns = after[role].cpu_ns - before[role].cpu_ns
        out.row(f"{role}_cpu", f"CPU time of the idle {role} in {scale.idle_s:g} s", "ns", {OURS: [cpu_ns]})


def _memory(bench: Bench, scale: Scale, out: Collector) -> None:
    """After everything before: restarts have made the daemons young, kills and changes used them."""
    for count in scale.file_counts:
        for role, pid in _pids(bench.filled(count)).items():
            use = processes.memory(pid)
            if role == "daemon":
                target = DAEMON_RSS if count <= FEW_FILES else None
                out.row(
                    "daemon_rss",
                    f"daemon, resident, {count:,} files",
                    "B",
                    {OURS: [use.resident_bytes]},
                    x=count,
                    target=target,
                )
                out.row(
                    "daemon_pss",
                    f"daemon, its share, {count:,} files",
                    "B",
                    {OURS: [use.share_bytes]},
                    x=count,
                )
            elif count == min(scale.file_counts):
                resident = {OURS: [use.resident_bytes]}
                out.row("holder_rss", "holder, resident", "B", resident, target=HOLDER_RSS)
                out.row("holder_pss", "holder, its share", "B", {OURS: [use.share_bytes]})
    _growth(bench, scale, out)


def _growth(bench: Bench, scale: Scale, out: Collector) -> None:
    instance = bench.filled(min(scale.file_counts))
    where = instance.mountpoint / "d0"
    pid = _pids(instance)["daemon"]
    bench.say("lifecycle: growth over a soak")
    bench.run("calls", "changes", where, max(1, scale.soak_changes // 5))
    before = processes.memory(pid).resident_bytes
    bench.run("calls", "changes", where, scale.soak_changes)
    grown = max(0.0, processes.memory(pid).resident_bytes - before)
    title = f"growth of the daemon over {4 * scale.soak_changes:,} changes"
    out.row("growth", title, "B", {OURS: [grown]}, target=NO_GROWTH)


def _pids(instance: Instance) -> dict[str, int]:
    status = instance.status()
    return {"daemon": status["daemon_pid"], "holder": status["holder_pid"]}
