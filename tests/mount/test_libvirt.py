"""libvirt with memory_backing_dir on our mount: a real libvirtd, a real (emulated) domain, as its own user.

The domain goes on while our daemon is killed, and what libvirt deletes when a domain stops is kept by a pin.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli import COMMAND
from tests.guest.rig import boot_files
from tests.require import require

pytestmark = pytest.mark.libvirt
LIBVIRT_UID = 64055
MIB = 1 << 20


@pytest.fixture(scope="module")
def steps(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What every step of the script left."""
    require(os.geteuid() == 0, "root")
    require(shutil.which("libvirtd") and shutil.which("virsh"), "libvirtd (scripts/libvirt-setup)")
    directory, boot = tmp_path_factory.mktemp("libvirt"), boot_files()
    out = directory / "out"
    environment = {
        **os.environ,
        "DIR": str(directory),
        "OUT": str(out),
        "KERNEL": str(boot.kernel),
        "INITRAMFS": str(boot.initramfs),
        "GUESTMEMFS_RUN_DIR": str(directory / "run"),
        "PATH": f"{COMMAND.parent}:{os.environ['PATH']}",
    }
    script = Path(__file__).with_name("libvirt_script.sh")
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "bash", str(script)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    log = (out / "libvirtd.log").read_text() if (out / "libvirtd.log").exists() else ""
    assert done.returncode == 0, f"{done.stdout}{done.stderr}{log[-2000:]}"
    return {path.name: path.read_text() for path in out.iterdir()}


def test_the_domains_memory_is_a_file_of_the_mount_and_belongs_to_qemus_user(steps: dict[str, str]) -> None:
    uid, _mode, size, path = steps["ram"].split()
    assert (int(uid), int(size)) == (LIBVIRT_UID, 256 * MIB)
    assert path.startswith("/mnt/guests/libvirt/qemu/")
    (file,) = json.loads(steps["status"])["files"]
    assert [user["comm"][:10] for user in file["mapped_by"]] == ["qemu-syste"]
    assert file["huge_fraction"] == 1.0


def test_the_domain_runs_on_when_our_daemon_is_killed(steps: dict[str, str]) -> None:
    assert steps["state-after-kill"].strip() == "running"
    before, after = json.loads(steps["status"]), json.loads(steps["status-after-kill"])
    assert after["generation"] == before["generation"] + 1
    assert after["files"][0]["mapped_by"] == before["files"][0]["mapped_by"]
    assert steps["broken"].strip() == "0"


def test_a_pin_keeps_the_file_that_libvirt_deletes(steps: dict[str, str]) -> None:
    assert steps["ram-pinned"].split()[2:] == steps["ram"].split()[2:]
    assert steps["ram-second"].split()[2] == str(256 * MIB)
    assert steps["ram-not-pinned"] == ""
