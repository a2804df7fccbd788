"""A memfd region goes through a kexec in a live update session, with a guest on it (`make test-kexec-luo`).

The same scenario as test_kexec_dax.py, on the kernel of scripts/build-luo-kernel: here nothing on a disk
remembers the instance, everything comes out of the session.
"""

from __future__ import annotations

import pytest

from .kexec import assert_the_blackout_is_known, assert_the_guest_counted_on, read, through_kexec
from .rig import VmResult

pytestmark = pytest.mark.vm_luo


@pytest.fixture(scope="module")
def machine() -> VmResult:
    return through_kexec("luo", "memfd", "kho=on liveupdate=on")


def test_the_guest_counts_on_in_the_new_kernel(machine: VmResult) -> None:
    assert_the_guest_counted_on(machine)


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
    assert_the_blackout_is_known(
        machine, capsys, "preserve: hand all memory to the kernel", "retrieve, check, make huge, mount"
    )
