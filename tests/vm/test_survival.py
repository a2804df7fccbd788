"""What survives what, for every kind of region as a unit: one machine, Debian's newest systemd, our kernel.

survival_script_1.sh goes through everything that leaves the kernel alone, and preserves the memfd region.
Next is `systemctl kexec`, through which systemd (261 and later) carries its fd store.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.require import require

from .four_units import KINDS, assert_same, run_four_units
from .kernels import REPO
from .rig import VmResult
from .test_systemd import package  # noqa: F401  (a fixture)

pytestmark = pytest.mark.vm_luo


@pytest.fixture(scope="module")
def newest_systemd() -> dict[str, bytes | str]:
    """Packages by file name."""
    found = subprocess.run(
        [REPO / "scripts" / "vm-systemd", "sid"], capture_output=True, text=True, check=False
    )
    require(found.returncode == 0, "Debian's newest systemd (scripts/vm-systemd sid)")
    return {
        path.name.replace("_", "-", 1): path.read_bytes() for path in Path(found.stdout.strip()).glob("*.deb")
    }


@pytest.fixture(scope="module")
def machine(package: bytes, newest_systemd: dict[str, bytes | str]) -> VmResult:  # noqa: F811
    return run_four_units(
        "luo", "survival_script", "kho=on liveupdate=on", package, newest_systemd, timeout_s=2400
    )


def loaded(machine: VmResult, name: str) -> Any:
    return json.loads(machine.files[name])


def test_a_dax_region_does_not_notice_that_its_daemon_is_killed(machine: VmResult) -> None:
    assert_same(machine, "killed", "dax")


@pytest.mark.parametrize("kind", ["hugetlb", "dax"])
def test_a_region_does_not_notice_that_its_daemon_is_replaced(machine: VmResult, kind: str) -> None:
    assert_same(machine, "replaced", kind)


@pytest.mark.parametrize("kind", ["hugetlb", "dax"])
def test_a_region_outlives_holder_and_daemon(machine: VmResult, kind: str) -> None:
    assert_same(machine, "holder-killed", kind, since="by-hand")


@pytest.mark.parametrize("kind", ["hugetlb", "dax"])
def test_a_region_is_there_again_after_umount_and_mount(machine: VmResult, kind: str) -> None:
    assert_same(machine, "unmounted", kind, since="by-hand")


@pytest.mark.parametrize("kind", KINDS)
def test_a_region_outlives_stop_and_start_of_its_unit(machine: VmResult, kind: str) -> None:
    assert_same(machine, "stopped", kind)


@pytest.mark.parametrize("kind", ["memfd", "dax"])
def test_systemd_carries_a_preserved_memfd_region_and_dax_needs_nobody(machine: VmResult, kind: str) -> None:
    assert int(machine.files["version"].split(b".")[0]) >= 261
    assert_same(machine, "kexec", kind)
    assert b"/srv/memfd/odd 5000000\n" in machine.files["files-2"]


@pytest.mark.parametrize("kind", ["tmpfs", "hugetlb"])
def test_what_a_kexec_takes_is_said(machine: VmResult, kind: str) -> None:
    assert f"/srv/{kind}/".encode() not in machine.files["files-2"]
    assert b"was of an earlier boot and is gone: starting empty" in machine.files[f"journal-{kind}"]


def test_what_was_carried_is_listed_until_its_unit_starts(machine: VmResult) -> None:
    rows = {row["name"]: row for row in loaded(machine, "list-2")}
    assert {name: row["condition"] for name, row in rows.items()} == {
        "memfd": "stopped",
        "tmpfs": "lost",
        "hugetlb": "lost",
    }
    assert "brings it back" in rows["memfd"]["advice"]


def test_a_carried_region_is_whole_and_like_any_other(machine: VmResult) -> None:
    before, after = loaded(machine, "status-1"), loaded(machine, "status-2")
    assert after["state"] == "serving" and after["region"] == before["region"]
    assert after["generation"] > before["generation"]
    assert machine.files["pin"] == b"pinned\n"
    assert loaded(machine, "fsck-2")["problems"] == []
    assert b"instance memfd came through the kexec" in machine.files["journal-memfd"]
    assert_same(machine, "kexec-and-stopped", "memfd")
    assert machine.files["again"].endswith(b"instance memfd is not preserved any more\n")


def test_for_a_unit_the_manifest_lies_beside_the_files_and_there_is_no_session_of_ours(
    machine: VmResult,
) -> None:
    assert loaded(machine, "preserved")["session"] == "systemd"
    assert machine.files["fds-carried"] == b"3\n"  # two files, one manifest; neither mount nor connection
    assert machine.files["tried"].split(b"\n")[:2] == [b"refused", b"refused"]
    assert machine.files["tried"].split(b"\n")[-3:] == [b"ok", b"ok", b""]
