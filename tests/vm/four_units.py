"""A machine with one unit of each region kind, each with a file that is filled: what survives what.

For test_survival.py and test_soft_reboot.py, whose scripts source survival_steps.sh.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .rig import VmResult, run_in_vm

HERE = Path(__file__).parent
KINDS = ("tmpfs", "memfd", "hugetlb", "dax")


def run_four_units(
    kernel: str, script: str, cmdline: str, package: bytes, systemd: Mapping[str, bytes | str], **others: Any
) -> VmResult:
    """Run script_1.sh and script_2.sh with our Debian package and that systemd; others: for run_in_vm."""
    return run_in_vm(
        kernel,
        phases=[(HERE / f"{script}_{number}.sh").read_text() for number in (1, 2)],
        init="systemd",
        cmdline=f"memmap=256M!1G {cmdline}",
        memory_mib=2560,
        disk_mib=1024,
        cpus=2,
        files={
            "steps.sh": (HERE / "survival_steps.sh").read_text(),
            "fill.py": (HERE / "survival_fill.py").read_text(),
            "sum.py": (HERE / "survival_sum.py").read_text(),
            "package.deb": package,
            **systemd,
        },
        env={"GUESTMEMFS_PATIENCE": "8"},
        **others,
    )


def assert_same(machine: VmResult, step: str, kind: str, since: str = "started") -> None:
    """The file of that kind's unit has the bytes it had."""
    before, after = machine.files[f"{since}-{kind}"], machine.files[f"{step}-{kind}"]
    assert len(before) == 65 and after == before
