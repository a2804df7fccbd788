"""A soft-reboot: the kernel stays, all of userspace starts anew, by the systemd of Debian's backports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .rig import VmResult, run_in_vm
from .test_systemd import package  # noqa: F401  (a fixture)
from .test_systemd_reboot import newer_systemd  # noqa: F401  (a fixture)

pytestmark = pytest.mark.vm_full
HERE = Path(__file__).parent
KINDS = ("tmpfs", "memfd", "hugetlb", "dax")


@pytest.fixture(scope="module")
def machine(package: bytes, newer_systemd: dict[str, bytes | str]) -> VmResult:  # noqa: F811
    assert newer_systemd, "the systemd of Debian's backports (scripts/vm-systemd)"
    return run_in_vm(
        "6.12-cloud",
        phases=[(HERE / f"soft_reboot_script_{number}.sh").read_text() for number in (1, 2)],
        init="systemd",
        between="soft-reboot",
        cmdline="memmap=256M!1G",
        memory_mib=2560,
        disk_mib=1024,
        cpus=2,
        files={
            "steps.sh": (HERE / "survival_steps.sh").read_text(),
            "fill.py": (HERE / "survival_fill.py").read_text(),
            "sum.py": (HERE / "survival_sum.py").read_text(),
            "package.deb": package,
            **newer_systemd,
        },
        env={"GUESTMEMFS_PATIENCE": "8"},
        timeout_s=1500,
    )


def test_userspace_was_started_anew_on_the_same_kernel(machine: VmResult) -> None:
    (boot, began), (same_boot, began_again) = (machine.files[f"userspace-{n}"].split() for n in (1, 2))
    assert boot == same_boot
    assert int(began_again) > int(began)


@pytest.mark.parametrize("kind", KINDS)
def test_a_region_outlives_a_soft_reboot(machine: VmResult, kind: str) -> None:
    before, after = machine.files[f"started-{kind}"], machine.files[f"soft-rebooted-{kind}"]
    assert len(before) == 65 and after == before
    assert json.loads(machine.files[f"fsck-{kind}"])["problems"] == []
