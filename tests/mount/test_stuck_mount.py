"""Instances are found though their mount is stuck (nobody answers) or dead (nobody will)."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from guestmemfs_fuse.linux import mount
from guestmemfs_fuse.metadata import instance
from guestmemfs_fuse.metadata.instance import InstanceConfig
from tests.require import require

MNT_DETACH = 2
DEADLINE_S = 10.0


class StuckMount:
    """A FUSE mount whose daemon never reads a request; close() makes it a dead one."""

    def __init__(self, mountpoint: Path) -> None:
        self.mountpoint = str(mountpoint)
        self._fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        options = f"fd={self._fd},rootmode=40000,user_id=0,group_id=0"
        mount.mount("stuck", self.mountpoint, "fuse", 0, options)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@pytest.fixture
def stuck(private_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StuckMount]:
    require(os.geteuid() == 0, "root")
    require(Path("/dev/fuse").exists(), "/dev/fuse")
    monkeypatch.setenv("GUESTMEMFS_RUN_DIR", str(private_dir / "run"))
    (private_dir / "mnt").mkdir()
    paths = instance.register("ram")
    InstanceConfig("ram", "0" * 32, str(private_dir / "mnt"), "tmpfs", 1, 1, "boot", 1).save(paths.state_dir)
    stuck = StuckMount(private_dir / "mnt")
    yield stuck
    stuck.close()
    mount.umount(stuck.mountpoint, MNT_DETACH)
    instance.forget("ram")


def found(mountpoint: str) -> list[str]:
    """What is found, in a thread that may hang."""
    names: list[str] = []

    def look() -> None:
        names.append(instance.find(mountpoint).name)
        names.append(instance.find(f"{mountpoint}/../mnt/.").name)
        names.append(instance.instance_of_path(f"{mountpoint}/a/b")[1])

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(DEADLINE_S)
    return names


def test_an_instance_is_found_by_a_mountpoint_that_answers_nothing(stuck: StuckMount) -> None:
    assert found(stuck.mountpoint) == ["ram", "ram", "a/b"]


def test_an_instance_is_found_by_a_mountpoint_that_is_dead(stuck: StuckMount) -> None:
    stuck.close()
    with pytest.raises(OSError, match="not connected"):
        os.stat(stuck.mountpoint)
    assert found(stuck.mountpoint) == ["ram", "ram", "a/b"]
