"""A small run for the tests of JSON, page and plots."""

from __future__ import annotations

import pytest

from guestmemfs_fuse.bench.results import OURS, Area, Results, Target, row

RATIO = Target("within 2%", 1.02, "ratio")
FIGURE = Target("under 150 ms", 150e6, "figure")


@pytest.fixture
def results() -> Results:
    """One area of single rows, one of a curve, one that failed."""
    memory = Area(
        "memory",
        "Memory path",
        (
            row(
                "read",
                "read",
                "B/s",
                {OURS: [9e9, 9e9], "tmpfs": [9e9, 9e9]},
                control="tmpfs",
                better="more",
                target=RATIO,
            ),
            row(
                "mmap",
                "mmap",
                "ns",
                {OURS: [30.0, 34.0], "tmpfs": [20.0, 20.0]},
                control="tmpfs",
                target=RATIO,
            ),
            row("huge", "in huge pages", "fraction", {OURS: [1.0]}, better="more"),
        ),
        notes=("A note.",),
        left_out=("hugetlbfs: no pages",),
    )
    few, many = [100e6, 110e6], [900e6, 950e6]
    stalls = Area(
        "lifecycle",
        "Life cycle",
        (
            row("restart", "restart, 10 files", "ns", {OURS: few}, x=10, target=FIGURE),
            row("restart", "1000 files", "ns", {OURS: many, "10 files": few}, control="10 files", x=1000),
        ),
        x_name="files",
        x_unit="files",
    )  # fmt: skip
    failed = Area("guest", "Guest", (), failed="no QEMU")
    machine = {"cpu": "a CPU", "cpus": 2, "memory_bytes": 24 << 30, "hypervisor": True, "qemu": None}
    return Results(machine, "bench", "1.2.3", 90.0, (memory, stalls, failed))
