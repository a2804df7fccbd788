"""The unit under real systemd as PID 1, with its own fd store: a guest's memory and files through everything.

What runs is the Debian package, built from this checkout and installed into the machine. One machine
(tests/vm/systemd_script.sh) goes through all steps, the tests look at what each left. systemd here is Debian
12's 252: what later ones can do better (FileDescriptorStorePreserve=) is not needed for these promises.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.require import require

from .kernels import REPO
from .rig import VmResult, run_in_vm

HERE = Path(__file__).parent
STALL_S = 240.0
"""How long a call may wait for the next daemon: emulated, on a busy host. Natively it is under a second."""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """`make deb`."""
    require(shutil.which("dpkg-deb"), "dpkg-deb")
    directory = tmp_path_factory.mktemp("deb")
    subprocess.run([REPO / "scripts" / "build-deb", directory], check=True, stdout=subprocess.DEVNULL)
    (found,) = directory.glob("guestmemfs-fuse_*.deb")
    return found.read_bytes()


@pytest.fixture(scope="module")
def machine(package: bytes) -> VmResult:
    return run_in_vm(
        "6.12-cloud",
        (HERE / "systemd_script.sh").read_text(),
        init="systemd",
        cpus=2,
        env={"GUESTMEMFS_PATIENCE": "8"},
        files={
            "guestlike.py": (HERE / "guestlike.py").read_text(),
            "steps.sh": (HERE / "systemd_steps.sh").read_text(),
            "package.deb": package,
        },
        timeout_s=2400,
    )


def after(machine: VmResult, step: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(machine.files[step])
    return found


def journal(machine: VmResult) -> list[dict[str, Any]]:
    return [json.loads(line) for line in machine.files["journal"].decode().splitlines()]


@pytest.mark.parametrize(
    "step", ["restarted", "reloaded", "killed-successor", "hung", "broken-config", "upgraded"]
)
def test_mount_memory_and_open_files_go_on(machine: VmResult, step: str) -> None:
    """systemctl restart, reload, SIGKILL, a watchdog's kill, SIGKILL with a broken configuration, upgrade."""
    seen = after(machine, step)
    assert seen["guest"]["pid"] == after(machine, "started")["guest"]["pid"]
    assert seen["guest"]["errors"] == []
    assert seen["guest"]["longest_call_s"] < STALL_S
    assert (seen["mounts"], seen["fds"]) == (1, 1)


def test_stores_never_wait_for_a_daemon(machine: VmResult) -> None:
    guest = after(machine, "broken-config")["guest"]
    # The machine itself may stand still, but nowhere near as long as calls had to wait.
    assert guest["longest_store_s"] < guest["longest_call_s"] / 2


def test_every_step_had_a_daemon_of_its_own(machine: VmResult) -> None:
    steps = ["started", "restarted", "reloaded", "killed-successor", "hung", "broken-config", "upgraded"]
    assert len({after(machine, step)["main_pid"] for step in steps}) == len(steps)
    assert b"serving, generation 7" in machine.files["status"]
    # systemd itself counts the killed ones: after the reload, by the watchdog, with the broken configuration.
    assert machine.files["restarts"].strip() == b"3"


def test_stop_under_a_running_guest_unmounts_and_takes_no_memory_along(machine: VmResult) -> None:
    assert machine.files["stopped-busy"].split() == [b"inactive", b"0"]
    before, later = (
        after(machine, "broken-config")["guest"],
        json.loads(machine.files["notes-after-busy-stop"]),
    )
    assert later["stores"] > before["stores"]
    assert not [error for error in later["errors"] if "wrong bytes" in error]
    assert "fstatvfs: Transport endpoint is not connected" in later["errors"]


def test_stop_and_start_keep_region_and_files(machine: VmResult) -> None:
    assert machine.files["kept-bytes"].split()[1] == b"%d" % (1 << 20)
    assert machine.files["stopped-idle"].split()[:2] == [b"inactive", b"0"]
    for listing in ("files-after-start", "files-after-second-start"):
        assert b"16777216" in machine.files[listing]


def test_a_stop_while_the_unit_is_reloaded_unmounts(machine: VmResult) -> None:
    """For systemd the unit has failed then: what its ExecReload= ran was killed."""
    state, mounts = machine.files["stopped-reloading"].split()
    assert (state, mounts) == (b"failed", b"0")


def test_umount_ends_the_unit_for_good_and_without_complaint(machine: VmResult) -> None:
    assert machine.files["result"].strip() == b"success"


def test_a_boot_says_that_the_region_of_the_last_one_is_gone(machine: VmResult) -> None:
    messages = [entry["MESSAGE"] for entry in journal(machine)]
    assert any("was of an earlier boot and is gone" in message for message in messages)


def test_the_journal_has_level_and_instance(machine: VmResult) -> None:
    ours = [entry for entry in journal(machine) if entry.get("GUESTMEMFS_INSTANCE") == "vm1"]
    serving = [entry for entry in ours if entry["MESSAGE"].startswith("serving /srv/guests")]
    assert len(serving) >= 7  # successors too
    assert {entry["PRIORITY"] for entry in serving} == {"6"}
    assert all(entry["CODE_FUNC"] and entry["LOGGER"] == "guestmemfs" for entry in serving)
    assert not [entry["MESSAGE"] for entry in ours if entry["PRIORITY"] in "0123"]


def test_daemons_run_confined(machine: VmResult) -> None:
    privileges = dict(line.split(":\t") for line in machine.files["privileges"].decode().splitlines())
    # CAP_DAC_OVERRIDE 1, CAP_DAC_READ_SEARCH 2, CAP_KILL 5, CAP_SYS_PTRACE 19, CAP_SYS_ADMIN 21
    assert int(privileges["CapBnd"], 16) == sum(1 << number for number in (1, 2, 5, 19, 21))
    assert (privileges["NoNewPrivs"], privileges["Seccomp"]) == ("1", "2")


# -- the package ---------------------------------------------------------------------------------------


def test_the_package_serves_what_its_configuration_says(machine: VmResult) -> None:
    said = machine.files["check-config"].decode()
    assert said == "/etc/guestmemfs/vm1.toml: instance vm1, a 64 MiB tmpfs region at /srv/guests\n"
    assert b"/usr/lib/guestmemfs-fuse" in machine.files["journal"]


def test_it_is_not_removed_under_a_guest(machine: VmResult) -> None:
    said = machine.files["remove-while-served"]
    assert b"still served: other" in said and b"removed" not in said.splitlines()


def test_a_purge_leaves_nothing(machine: VmResult) -> None:
    assert machine.files["left"] == b""
