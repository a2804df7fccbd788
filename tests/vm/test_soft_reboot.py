"""A soft-reboot: the kernel stays, all of userspace starts anew, by the systemd of Debian's backports."""

from __future__ import annotations

import json

import pytest

from .four_units import KINDS, assert_same, run_four_units
from .rig import VmResult
from .test_systemd import package  # noqa: F401  (a fixture)
from .test_systemd_reboot import newer_systemd  # noqa: F401  (a fixture)

pytestmark = pytest.mark.vm_full


@pytest.fixture(scope="module")
def machine(package: bytes, newer_systemd: dict[str, bytes | str]) -> VmResult:  # noqa: F811
    assert newer_systemd, "the systemd of Debian's backports (scripts/vm-systemd)"
    return run_four_units(
        "6.12-cloud",
        "soft_reboot_script",
        "",
        package,
        newer_systemd,
        between="soft-reboot",
        timeout_s=1500,
    )


def test_userspace_was_started_anew_on_the_same_kernel(machine: VmResult) -> None:
    (boot, began), (same_boot, began_again) = (machine.files[f"userspace-{n}"].split() for n in (1, 2))
    assert boot == same_boot
    assert int(began_again) > int(began)


@pytest.mark.parametrize("kind", KINDS)
def test_a_region_outlives_a_soft_reboot(machine: VmResult, kind: str) -> None:
    assert_same(machine, "soft-rebooted", kind)
    assert json.loads(machine.files[f"fsck-{kind}"])["problems"] == []
