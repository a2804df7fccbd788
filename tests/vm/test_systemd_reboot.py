"""A reboot of a host with enabled units, and a memfd region as a unit: under systemd 252, then 254.

One machine with a disk (reboot_script_1.sh, a reboot, reboot_script_2.sh). What runs is the Debian package.
For the second boot the systemd of Debian's backports is unpacked, as an upgrade of the distribution would: it
knows FileDescriptorStorePreserve=, which 252 does not. Without it, what needs it is skipped.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.require import require

from .kernels import REPO
from .rig import VmResult, run_in_vm
from .test_systemd import STALL_S, package  # noqa: F401  (a fixture)

pytestmark = pytest.mark.vm_full
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def newer_systemd() -> dict[str, bytes | str]:
    """Packages by file name; none where they cannot be had."""
    found = subprocess.run([REPO / "scripts" / "vm-systemd"], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        return {}
    renamed = {path.name.replace("_", "-", 1): path for path in Path(found.stdout.strip()).glob("*.deb")}
    return {name: path.read_bytes() for name, path in renamed.items()}


@pytest.fixture(scope="module")
def machine(package: bytes, newer_systemd: dict[str, bytes | str]) -> VmResult:  # noqa: F811
    return run_in_vm(
        "6.12-cloud",
        phases=[(HERE / f"reboot_script_{number}.sh").read_text() for number in (1, 2)],
        init="systemd",
        between="reboot",
        disk_mib=1024,
        cpus=2,
        files={
            "guestlike.py": (HERE / "guestlike.py").read_text(),
            "steps.sh": (HERE / "systemd_steps.sh").read_text(),
            "package.deb": package,
            **newer_systemd,
        },
        timeout_s=2400,
    )


def loaded(machine: VmResult, name: str) -> Any:
    return json.loads(machine.files[name])


def messages(machine: VmResult, name: str) -> list[str]:
    lines = machine.files[name].decode(errors="replace").splitlines()
    return [str(json.loads(line).get("MESSAGE")) for line in lines]


def row(machine: VmResult, name: str, instance: str) -> dict[str, Any]:
    (found,) = (each for each in loaded(machine, name) if each["name"] == instance)
    return dict(found)


# -- the reboot ----------------------------------------------------------------------------------------


def test_enabled_units_are_served_after_a_reboot_and_empty(machine: VmResult) -> None:
    assert machine.files["files-2"] == b""
    status = loaded(machine, "status-2")
    assert (status["state"], status["generation"], status["files"]) == ("serving", 1, [])
    assert machine.files["failed-2"] == b""
    assert loaded(machine, "serves-again")["guest"]["errors"] == []


@pytest.mark.parametrize("instance", ["vm1", "mem1"])
def test_the_journal_of_the_boot_says_what_is_gone(machine: VmResult, instance: str) -> None:
    said = [text for text in messages(machine, "journal-2") if f"region of instance {instance} " in text]
    (line,) = said
    assert "(64 MiB) was of an earlier boot and is gone: starting empty" in line


def test_status_says_it_as_long_as_the_instance_lives(machine: VmResult) -> None:
    assert loaded(machine, "status-2")["replaces"] == {"kind": "tmpfs", "size_bytes": 64 << 20}
    assert b"empty: the tmpfs region before it (64 MiB) is gone" in machine.files["status-text-2"]


def test_a_unit_that_nobody_started_again_is_listed_as_lost(machine: VmResult) -> None:
    idle = row(machine, "list-2", "idle")
    assert (idle["condition"], idle["mountpoint"]) == ("lost", "/srv/idle")
    assert b"`systemctl start guestmemfs@idle` starts empty" in machine.files["list-text-2"]


def test_no_line_of_the_unit_is_complained_about(machine: VmResult) -> None:
    for boot in ("journal-1", "journal-2"):
        assert not [text for text in messages(machine, boot) if "Unknown" in text and "guestmemfs" in text]
    assert machine.files["verify"] == b""


def test_a_line_in_fstab_is_a_mount_like_any_other(machine: VmResult) -> None:
    """Started, resized by a remount, stopped and started by systemd, then by umount and mount."""
    seen = machine.files["fstab"].decode().splitlines()
    assert seen == ["guest 16", "guest 32", "inactive", "guest 32", "guest 32"]


# -- a memfd region as a unit --------------------------------------------------------------------------


@pytest.mark.parametrize("step", ["memfd-restarted", "memfd-killed"])
def test_a_memfd_region_stays_in_systemds_store(machine: VmResult, step: str) -> None:
    seen, before = loaded(machine, step), loaded(machine, "memfd-started")
    assert seen["guest"]["pid"] == before["guest"]["pid"] and seen["guest"]["errors"] == []
    assert seen["guest"]["longest_call_s"] < STALL_S
    # The connection, the region's mount and the guest's file.
    assert (seen["mounts"], seen["fds"], before["fds"]) == (1, 3, 3)


def test_before_systemd_254_a_stop_takes_it_and_that_is_said(machine: VmResult) -> None:
    require("memfd-stopped-list" in machine.files, "a host with systemd before 254")
    assert machine.files["memfd-stopped-fds"] == b"0\n"
    stopped = row(machine, "memfd-stopped-list", "mem1")
    assert stopped["condition"] == "lost" and "is gone" in stopped["advice"]
    assert machine.files["memfd-files-after-stop"] == b""
    assert loaded(machine, "memfd-status-after-stop")["replaces"]["kind"] == "memfd"
    said = [
        text for text in messages(machine, "journal-1") if "is gone although the host was not booted" in text
    ]
    assert len(said) == 1


@pytest.fixture
def on_254(machine: VmResult) -> VmResult:
    require(machine.files["version-2"].split()[1] >= b"254", "systemd 254 (scripts/vm-systemd)")
    return machine


def test_the_package_installs_the_line_where_it_is_known(on_254: VmResult) -> None:
    assert on_254.files["drop-ins"] == b"10-preserve.conf\n"
    assert on_254.files["preserve"] == b"yes\n"


def test_from_254_on_a_stopped_unit_keeps_its_memory(on_254: VmResult) -> None:
    stopped = row(on_254, "preserved-list", "mem1")
    assert (stopped["condition"], stopped["advice"]) == ("stopped", None)
    # The region's mount and the guest's file; not the connection, whose mount is gone.
    assert on_254.files["preserved-fds"] == b"2\n"
    assert on_254.files["preserved-bytes"] == b"True\n"


def test_nobody_else_begins_anew_beside_it(on_254: VmResult) -> None:
    said = on_254.files["preserved-mount"].decode()
    assert "systemd keeps the memory of instance mem1" in said and "status 5" in said
    assert "systemctl start guestmemfs@mem1.service" in said


def test_destroy_has_systemd_let_go_of_it(on_254: VmResult) -> None:
    fds, active, *rest = on_254.files["preserved-destroyed"].decode().split("\n", 2)
    assert (fds, active) == ("0", "inactive")
    assert "mem1" not in [each["name"] for each in json.loads(rest[0])]
    assert b"warning" not in on_254.files["preserved-destroy"]
