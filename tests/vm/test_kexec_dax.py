"""Stock Debian kernel, a carve-out of RAM as fsdax, a guest on it, a real kexec: the guest goes on.

`make test-kexec` runs this and shows what the blackout is made of (all of it under emulation: TCG).
"""

from __future__ import annotations

import pytest

from .inside_kexec import GUEST_MIB, REGION_MIB
from .kexec import assert_the_blackout_is_known, assert_the_guest_counted_on, read, through_kexec
from .rig import VmResult


@pytest.fixture(scope="module")
def machine() -> VmResult:
    return through_kexec("6.12-cloud", "dax", "memmap=512M!1G")


def test_the_guest_counts_on_in_the_new_kernel(machine: VmResult) -> None:
    assert_the_guest_counted_on(machine)
    assert machine.phases[1].boot_s < read(machine, "after")["uptime_s"]


def test_the_rest_of_the_region_is_the_same_to_the_byte(machine: VmResult) -> None:
    before, after = read(machine, "before"), read(machine, "after")
    assert before["pattern"] == after["pattern"]
    sizes = {row["path"]: row["size_bytes"] >> 20 for row in before["status"]["files"]}
    assert sizes["/ram"] == GUEST_MIB and sum(sizes.values()) == REGION_MIB


def test_the_region_is_recognised_and_clean(machine: VmResult) -> None:
    before, after = read(machine, "before"), read(machine, "after")
    assert after["status"]["generation"] == before["status"]["generation"] + 1
    assert after["fsck"]["clean"] and after["fsck"]["problems"] == []


def test_every_block_can_be_mapped_huge(machine: VmResult) -> None:
    for when in ("before", "after"):
        assert read(machine, when)["status"]["huge"]["fraction"] == 1.0


def test_a_directory_that_is_not_dax_is_refused_and_left_as_it_was(machine: VmResult) -> None:
    refused = read(machine, "refused")
    assert refused["exit"] == 4 and "fsdax" in refused["said"] and "memmap=" in refused["said"]
    assert refused["left"] == []


def test_destroy_leaves_nothing_but_what_others_put_there(machine: VmResult) -> None:
    assert read(machine, "left") == ["lost+found"]


def test_what_the_blackout_is_made_of(machine: VmResult, capsys: pytest.CaptureFixture[str]) -> None:
    assert_the_blackout_is_known(
        machine, capsys, "unmount instance and fsdax filesystem", "mount fsdax filesystem and instance"
    )
