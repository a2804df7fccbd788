"""Stock Debian kernel, a carve-out of RAM as fsdax, a guest on it, a real kexec: the guest goes on.

`make test-kexec` runs this and shows what the blackout is made of (all of it under emulation: TCG).
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from . import tiny_guest
from .blackout import blackout, shown
from .inside_kexec import GUEST_MIB, REGION_MIB
from .rig import VmResult, run_in_vm

_RUN = ".venv/bin/python -m tests.vm.inside_kexec dax"


@pytest.fixture(scope="module")
def machine() -> VmResult:
    tiny_guest.boot_files()
    return run_in_vm(
        "6.12-cloud",
        phases=[f"{_RUN} before; kexec -e", f"{_RUN} after"],
        cmdline="memmap=512M!1G",
        memory_mib=2048,
        cpus=2,
        env={"GUESTMEMFS_PATIENCE": "8"},
        timeout_s=580,
    )


def read(machine: VmResult, name: str) -> Any:
    return json.loads(machine.files[name])


def test_the_guest_counts_on_in_the_new_kernel(machine: VmResult) -> None:
    before, after = read(machine, "before"), read(machine, "after")
    counts = after["counts"]
    assert counts == list(range(1, len(counts) + 1)) and counts[-1] >= before["count"] + 3
    assert after["complaints"] == [] and after["ram_intact"]
    assert machine.phases[1].boot_s < after["uptime_s"]


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
    rows = blackout(
        machine.files, "unmount instance and fsdax filesystem", "mount fsdax filesystem and instance"
    )
    assert all(seconds > 0 for _, seconds in rows[:-2])
    with capsys.disabled():
        print(f"\nblackout of a guest across kexec (emulated, TCG):\n{shown(rows)}")
