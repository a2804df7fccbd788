"""The memfd kind on a real mount: what tmpfs passes, and that its memory lives in the fd store alone."""

from __future__ import annotations

import errno
import mmap
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli import REPOSITORY, Guestmemfs, Instance
from tests.guest.measure import checksum, mapping_of, write_pattern
from tests.leftovers import wait_gone

MIB = 1 << 20
SOON_S = 20.0


@pytest.fixture
def memfd(guestmemfs: Guestmemfs) -> Instance:
    return guestmemfs.mount("mem", "--region", "memfd")


def soon(holds: Callable[[], bool]) -> bool:
    from tests.guest.rig import wait_until

    return wait_until(holds, SOON_S)


def serving(instance: Instance, generation: int) -> bool:
    status = instance.status()
    return bool(status["state"] == "serving" and status["generation"] == generation)


def host_shmem_bytes() -> int:
    line = next(each for each in Path("/proc/meminfo").read_text().splitlines() if each.startswith("Shmem:"))
    return int(line.split()[1]) << 10


def fill(path: Path, mib: int) -> str:
    return write_pattern(path, mib)


@pytest.fixture
def pattern(memfd: Instance) -> str:
    return fill(memfd.mountpoint / "ram", 16)


# -- memory ------------------------------------------------------------------------------------------------


def test_its_mappings_are_huge_pages_and_nothing_of_it_has_a_name(memfd: Instance, pattern: str) -> None:
    path = memfd.mountpoint / "ram"
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
        assert sum(mapping[:: 2 * MIB]) >= 0
        found = mapping_of(os.getpid(), path)
    assert found.huge_bytes == found.resident_bytes == 16 * MIB
    region = memfd.status()["region"]
    assert (region["kind"], region["used_bytes"], region["free_bytes"]) == ("memfd", 16 * MIB, 48 * MIB)
    assert not list(memfd.state_dir.glob("region/*"))


def test_a_full_region_says_so_and_removing_a_file_makes_room(memfd: Instance) -> None:
    fill(memfd.mountpoint / "ram", 40)
    with open(memfd.mountpoint / "more", "xb") as file:
        with pytest.raises(OSError) as refused:
            os.truncate(file.fileno(), 40 * MIB)
        assert refused.value.errno == errno.ENOSPC
        (memfd.mountpoint / "ram").unlink()
        os.truncate(file.fileno(), 40 * MIB)
    assert memfd.status()["region"]["used_bytes"] == 40 * MIB


# -- who dies ----------------------------------------------------------------------------------------------


def test_restart_hands_the_memory_to_the_next_daemon(memfd: Instance, pattern: str) -> None:
    with open(memfd.mountpoint / "ram", "r+b") as file, mmap.mmap(file.fileno(), 16 * MIB) as mapping:
        memfd.cli.run("restart", memfd.name)
        mapping[0:5] = b"later"
        assert serving(memfd, 2)
    assert (memfd.mountpoint / "ram").stat().st_blocks * 512 == 16 * MIB
    with (
        open(memfd.mountpoint / "ram", "rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view,
    ):
        assert view[:5] == b"later"


def test_sigkill_of_the_daemon_costs_nothing(memfd: Instance, pattern: str) -> None:
    for generation in (2, 3):
        os.kill(memfd.daemon_pid, signal.SIGKILL)
        fill(memfd.mountpoint / f"made-while-{generation}", 2)
        assert soon(lambda: serving(memfd, generation))  # noqa: B023 - called within the round
    assert checksum(memfd.mountpoint / "ram") == pattern
    assert memfd.status()["region"]["used_bytes"] == 20 * MIB


def test_umount_leaves_the_memory_with_the_holder_and_mount_brings_it_back(
    memfd: Instance, pattern: str
) -> None:
    holder_pid = memfd.status()["holder_pid"]
    memfd.umount()
    stopped = memfd.status()
    assert (stopped["state"], stopped["holder_pid"]) == ("stopped", holder_pid)
    memfd.remount()
    assert checksum(memfd.mountpoint / "ram") == pattern
    assert memfd.status()["holder_pid"] == holder_pid


def test_files_made_after_the_holder_was_killed_are_refused(memfd: Instance, pattern: str) -> None:
    """The daemon has copies of what there was; new memory would die with it, so there is none."""
    os.kill(memfd.status()["holder_pid"], signal.SIGKILL)
    assert soon(lambda: memfd.status()["holder_pid"] is None)
    assert "holder was killed" in memfd.status()["advice"]
    with pytest.raises(OSError) as refused:
        os.close(os.open(memfd.mountpoint / "new", os.O_RDWR | os.O_CREAT))
    assert refused.value.errno == errno.ENOSPC
    assert checksum(memfd.mountpoint / "ram") == pattern


def test_regression_removing_a_file_does_not_end_a_daemon_whose_holder_was_killed(
    memfd: Instance, pattern: str
) -> None:
    """It could not tell its store, and took the memory of all other files along."""
    fill(memfd.mountpoint / "other", 4)
    status = memfd.status()
    os.kill(status["holder_pid"], signal.SIGKILL)
    assert soon(lambda: memfd.status()["holder_pid"] is None)
    (memfd.mountpoint / "other").unlink()
    assert soon(lambda: len(memfd.status()["files"]) == 1)
    assert memfd.daemon_pid == status["daemon_pid"]
    memfd.cli.run("restart", memfd.name)
    os.kill(memfd.daemon_pid, signal.SIGKILL)
    assert checksum(memfd.mountpoint / "ram") == pattern
    assert soon(lambda: serving(memfd, 3))
    assert memfd.problems() == []


def test_regression_umount_does_not_lose_memory_whose_holder_was_killed(
    memfd: Instance, pattern: str
) -> None:
    """It said that the region stays, and ended the only process that had it."""
    os.kill(memfd.status()["holder_pid"], signal.SIGKILL)
    assert soon(lambda: memfd.status()["holder_pid"] is None)
    refused = memfd.cli.run("umount", memfd.name, check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "would lose its memory" in refused.stderr
    assert checksum(memfd.mountpoint / "ram") == pattern


def test_without_holder_and_daemon_the_memory_is_gone_and_that_is_said(memfd: Instance, pattern: str) -> None:
    status = memfd.status()
    with open(memfd.mountpoint / "ram", "rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    for pid in (status["holder_pid"], status["daemon_pid"]):
        os.kill(pid, signal.SIGKILL)
    assert soon(lambda: memfd.cli.json("list")[0]["condition"] == "dead-mount")
    assert "memory is gone" in memfd.cli.json("list")[0]["advice"]
    refused = memfd.cli.run("mount", memfd.mountpoint, check=False)
    assert refused.returncode == 2
    assert "region of instance mem (64 MiB) is gone although the host was not booted" in refused.stderr
    # Who has it mapped keeps it, as long as that lasts.
    assert len(mapping[:]) == 16 * MIB
    mapping.close()
    anew = memfd.cli.run("mount", memfd.mountpoint, "--size", "64M")
    assert "starting empty" in anew.stderr
    assert os.listdir(memfd.mountpoint) == []


def test_destroy_gives_the_memory_back(guestmemfs: Guestmemfs) -> None:
    big = guestmemfs.mount("big", "--region", "memfd", size="1G")
    before_bytes = host_shmem_bytes()
    path = big.mountpoint / "ram"
    path.touch()
    os.truncate(path, 1024 * MIB)
    assert host_shmem_bytes() - before_bytes > 512 * MIB
    big.cli.run("destroy", big.name, "--yes")
    assert soon(lambda: host_shmem_bytes() - before_bytes < 512 * MIB)
    assert not big.state_dir.exists()
    assert not wait_gone(guestmemfs.directory)


def test_without_a_store_there_is_no_memfd_region(guestmemfs: Guestmemfs) -> None:
    mountpoint = guestmemfs.directory / "mnt-fg"
    mountpoint.mkdir()
    options = ("--size", "16M", "--region", "memfd", "--foreground")
    done = guestmemfs.run("mount", mountpoint, *options, check=False)
    assert done.returncode == 4 and "needs somebody who keeps its memory" in done.stderr


# -- live update -------------------------------------------------------------------------------------------


def test_preserving_without_an_orchestrator_changes_nothing(memfd: Instance, pattern: str) -> None:
    if os.path.exists("/dev/liveupdate"):
        pytest.skip("this kernel has a live update orchestrator")
    refused = memfd.cli.run("liveupdate", "preserve", memfd.name, check=False)
    assert refused.returncode == 4 and "CONFIG_LIVEUPDATE" in refused.stderr
    assert memfd.status()["state"] == "serving"
    fill(memfd.mountpoint / "more", 2)
    assert memfd.cli.run("liveupdate", "preserve", memfd.name, "--abort", check=False).returncode == 2
    assert memfd.cli.run("liveupdate", "retrieve", memfd.name, check=False).returncode == 3


# -- everything the tmpfs kind passes ----------------------------------------------------------------------


@pytest.fixture
def conformance_environment() -> Iterator[dict[str, str]]:
    # A session of its own inside ours: its leak check must not end what belongs to us.
    yield {**os.environ, "GUESTMEMFS_POSIX_REGION": "memfd", "PYTHONDONTWRITEBYTECODE": "1"}


def test_the_whole_conformance_suite_passes_on_it(conformance_environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/mount/posix"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=conformance_environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-4000:]
