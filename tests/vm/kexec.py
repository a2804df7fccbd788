"""A guest goes through a real kexec (inside_kexec.py does it, in the machine), and what that was made of.

For test_kexec_dax.py and test_kexec_luo.py: the same scenario, with RAM on fsdax and in a memfd region.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from . import tiny_guest
from .rig import VmResult, run_in_vm

_RUN = ".venv/bin/python -m tests.vm.inside_kexec"
_STAMPS = ("save", "saved", "umount", "kexec", "userspace", "mount", "mounted", "restored")


def through_kexec(kernel: str, region: str, cmdline: str) -> VmResult:
    """Boot the kernel and do all of the scenario on a region of that kind."""
    tiny_guest.boot_files()
    return run_in_vm(
        kernel,
        phases=[f"{_RUN} {region} before; kexec -e", f"{_RUN} {region} after"],
        cmdline=cmdline,
        memory_mib=2048,
        cpus=2,
        env={"GUESTMEMFS_PATIENCE": "8"},
        timeout_s=1500,
    )


def read(machine: VmResult, name: str) -> Any:
    """What inside_kexec.py noted under that name."""
    return json.loads(machine.files[name])


def assert_the_guest_counted_on(machine: VmResult) -> None:
    """Without a gap, over the kexec and beyond, its RAM intact as the guest itself sees it."""
    before, after = read(machine, "before"), read(machine, "after")
    counts = after["counts"]
    assert counts == list(range(1, len(counts) + 1)) and counts[-1] >= before["count"] + 3
    assert after["complaints"] == [] and after["ram_intact"]


def assert_the_blackout_is_known(
    machine: VmResult, capsys: pytest.CaptureFixture[str], unmounting: str, mounting: str
) -> None:
    """Each part took time; show them. See blackout() for the arguments."""
    rows = blackout(machine.files, unmounting, mounting)
    assert all(seconds > 0 for _, seconds in rows[:-2])
    with capsys.disabled():
        print(f"\nblackout of a guest across kexec (emulated, TCG):\n{shown(rows)}")


def blackout(files: Mapping[str, bytes], unmounting: str, mounting: str) -> list[tuple[str, float]]:
    """(what, seconds) in the order in which it happens; the last row is the whole.

    unmounting, mounting: what happens between the last two steps of each half.
    """
    at = {name: int(files[f"at-{name}"]) for name in _STAMPS}

    def between(first: str, last: str) -> float:
        return (at[last] - at[first]) / 1e9

    saved, restored = json.loads(files["before"])["saved"], json.loads(files["after"])["restored"]
    save_s, restore_s = saved["blackout_ns"] / 1e9, restored["blackout_ns"] / 1e9
    rows = [
        ("stop the guest, write its device state, quit QEMU", save_s),
        (unmounting, between("umount", "kexec")),
        ("kexec: the old kernel's last word to the new one's first process", between("kexec", "userspace")),
        (mounting, between("userspace", "mounted")),
        ("start QEMU, load the device state, go on", restore_s),
    ]
    whole = between("saved", "restored") + save_s
    rest = whole - sum(seconds for _, seconds in rows)
    return [*rows, ("starting our own commands, and the test's notes", rest), ("the whole", whole)]


def shown(rows: list[tuple[str, float]]) -> str:
    """As a table."""
    return "".join(f"  {seconds:8.3f} s  {what}\n" for what, seconds in rows)
