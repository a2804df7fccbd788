"""A memfd region goes through a kexec in a live update session, with a guest on it (`make test-kexec-luo`).

The same scenario as test_kexec_dax.py, on the kernel of scripts/build-luo-kernel: here nothing on a disk
remembers the instance, everything comes out of the session.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from . import tiny_guest
from .blackout import blackout, shown
from .rig import VmResult, run_in_vm

pytestmark = pytest.mark.vm_luo

_CMDLINE = "kho=on liveupdate=on"
_RUN = ".venv/bin/python -m tests.vm.inside_kexec memfd"


@pytest.fixture(scope="module")
def machine() -> VmResult:
    tiny_guest.boot_files()
    return run_in_vm(
        "luo",
        phases=[f"{_RUN} before; kexec -e", f"{_RUN} after"],
        cmdline=_CMDLINE,
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


def test_the_rest_of_the_region_is_the_same_to_the_byte(machine: VmResult) -> None:
    assert read(machine, "before")["pattern"] == read(machine, "after")["pattern"]


def test_metadata_figures_and_fsck_are_what_they_were(machine: VmResult) -> None:
    before, after = read(machine, "before")["status"], read(machine, "after")["status"]
    assert after["state"] == "serving", "what preserve froze is thawed"
    assert after["generation"] == before["generation"] + 1
    assert after["region"] == before["region"]
    assert read(machine, "after")["fsck"]["problems"] == []


def test_pages_are_huge_again(machine: VmResult) -> None:
    after = read(machine, "after")
    assert after["status"]["huge"]["fraction"] == 1.0
    mapped = after["ram_mapped"]
    assert mapped["huge_bytes"] == mapped["resident_bytes"] > 0, "QEMU maps them so"


def test_modifications_are_refused_while_preserved_and_abort_gives_them_back(machine: VmResult) -> None:
    tried = read(machine, "preserved")
    assert tried["frozen"] == {"create": "EBUSY", "truncate": "EBUSY", "thaw": 5, "state": "frozen"}
    assert tried["aborted"] == {"create": None, "truncate": None, "state": "serving"}
    assert tried["survives"] == {"sigkill": "frozen", "restart": "frozen"}


def test_what_the_blackout_is_made_of(machine: VmResult, capsys: pytest.CaptureFixture[str]) -> None:
    rows = blackout(
        machine.files, "preserve: hand all memory to the kernel", "retrieve, check, make huge, mount"
    )
    assert all(seconds > 0 for _, seconds in rows[:-2])
    with capsys.disabled():
        print(f"\nblackout of a guest across kexec (emulated, TCG):\n{shown(rows)}")
