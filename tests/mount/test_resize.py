"""Regions that change their size under a live mount, and one whose daemon died in the middle of it."""

from __future__ import annotations

import json
import mmap
import os
import signal
from pathlib import Path

import pytest

from tests.cli import Guestmemfs, Instance

MIB = 1 << 20


def size_of(instance: Instance) -> tuple[int, int]:
    """What status says, and what statfs(2) says."""
    figures = os.statvfs(instance.mountpoint)
    return instance.status()["region"]["size_bytes"], figures.f_blocks * figures.f_frsize


def fill(path: Path, size_bytes: int) -> None:
    with open(path, "wb") as file:
        file.truncate(size_bytes)


@pytest.mark.parametrize("kind", ["tmpfs", "memfd"])
def test_a_region_grows_and_shrinks_while_a_file_is_mapped(guestmemfs: Guestmemfs, kind: str) -> None:
    instance = guestmemfs.mount("gm", "--region", kind, size="32M")
    fill(instance.mountpoint / "ram", 24 * MIB)
    with open(instance.mountpoint / "ram", "r+b") as file, mmap.mmap(file.fileno(), 24 * MIB) as memory:
        memory[:4] = b"keep"
        with pytest.raises(OSError, match="No space left"):
            fill(instance.mountpoint / "more", 24 * MIB)
        done = guestmemfs.run("resize", "gm", "--size", "64M")
        assert done.stdout == "instance gm: 32M is now 64M\n"
        assert size_of(instance) == (64 * MIB, 64 * MIB)
        fill(instance.mountpoint / "more", 24 * MIB)
        (instance.mountpoint / "more").unlink()
        guestmemfs.run("resize", instance.mountpoint, "--size", "25M")  # rounded up to blocks
        assert size_of(instance) == (26 * MIB, 26 * MIB)
        assert memory[:4] == b"keep"


def test_below_its_use_a_region_keeps_its_size(instance: Instance) -> None:
    fill(instance.mountpoint / "ram", 24 * MIB)
    done = instance.cli.run("resize", instance.name, "--size", "22M", check=False)
    assert done.returncode == 5 and "24 MiB of the region are in use" in done.stderr
    assert size_of(instance) == (64 * MIB, 64 * MIB)


def test_more_than_the_host_has_is_refused_and_changes_nothing(instance: Instance) -> None:
    done = instance.cli.run("resize", instance.name, "--size", "400T", check=False)
    assert done.returncode == 7 and "does not fit into" in done.stderr
    assert size_of(instance) == (64 * MIB, 64 * MIB)


def test_the_new_size_outlives_daemon_restart_and_unmount(instance: Instance) -> None:
    instance.cli.run("resize", instance.name, "--size", "96M")
    os.kill(instance.daemon_pid, signal.SIGKILL)
    assert size_of(instance) == (96 * MIB, 96 * MIB)
    instance.cli.run("restart", instance.name)
    assert size_of(instance) == (96 * MIB, 96 * MIB)
    instance.umount()
    instance.remount()
    assert size_of(instance) == (96 * MIB, 96 * MIB)
    fill(instance.mountpoint / "ram", 90 * MIB)


def test_a_resize_that_was_only_journaled_is_finished_by_the_next_daemon(instance: Instance) -> None:
    """As after SIGKILL between the journal and the rest: configuration and region are still the old ones."""
    instance.cli.run("resize", instance.name, "--size", "96M")
    instance.umount()
    path = instance.state_dir / "instance.json"
    config = json.loads(path.read_text())
    assert config["size_bytes"] == 96 * MIB
    path.write_text(json.dumps({**config, "size_bytes": 64 * MIB}))
    instance.remount()
    assert size_of(instance) == (96 * MIB, 96 * MIB)
    assert json.loads(path.read_text())["size_bytes"] == 96 * MIB
    fill(instance.mountpoint / "ram", 90 * MIB)


def test_a_frozen_region_keeps_its_size(instance: Instance) -> None:
    instance.cli.run("freeze", instance.name)
    done = instance.cli.run("resize", instance.name, "--size", "96M", check=False)
    assert done.returncode != 0 and "frozen" in done.stderr
    instance.cli.run("thaw", instance.name)
    assert size_of(instance) == (64 * MIB, 64 * MIB)


def test_what_is_not_served_cannot_be_resized(instance: Instance) -> None:
    instance.umount()
    done = instance.cli.run("resize", instance.name, "--size", "96M", check=False)
    assert done.returncode == 8 and "is not served" in done.stderr


def test_a_hugetlb_region_says_why_it_cannot_and_goes_on(guestmemfs: Guestmemfs) -> None:
    huge = guestmemfs.mount("huge", "--region", "hugetlb", "--reserve", size="8M")
    fill(huge.mountpoint / "ram", 4 * MIB)
    for size in ("16M", "4M", "2M"):
        done = guestmemfs.run("resize", "huge", "--size", size, check=False)
        assert done.returncode == 4
        assert "a hugetlb region cannot change its size" in done.stderr
        assert "hint: mount a second instance; hugetlbfs takes its size once" in done.stderr
    assert size_of(huge) == (8 * MIB, 8 * MIB)
    fill(huge.mountpoint / "more", 4 * MIB)
    assert guestmemfs.json("fsck", "huge")["clean"]
