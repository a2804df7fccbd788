"""A real guest whose RAM is a file on a real mount, while everything underneath it is killed and replaced."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from guestmemfs_fuse.linux import mountinfo
from guestmemfs_fuse.vm.errors import NotPreservableError, RecordError, RestoreError, SaveError
from guestmemfs_fuse.vm.restore import restore
from tests.cli import Guestmemfs, Instance
from tests.guest.measure import checksum, mapping_of, uncached_stat, write_pattern
from tests.guest.rig import BootFiles, Guest, wait_until
from tests.guest.watch import Watch

GUEST_MIB = 128
RECOVERY_TIMEOUT_S = 60.0


@pytest.fixture
def host(guestmemfs: Guestmemfs) -> Instance:
    return guestmemfs.mount("host", size="256M")


@pytest.fixture
def new_guest(host: Instance, private_dir: Path, boot: BootFiles) -> Iterator[Callable[[Path], Guest]]:
    guests: list[Guest] = []

    def make(memory_path: Path) -> Guest:
        directory = private_dir / f"guest{len(guests)}"
        directory.mkdir()
        guests.append(Guest(boot, directory, memory_path, GUEST_MIB))
        return guests[-1]

    yield make
    for guest in guests:
        guest.kill()


@pytest.fixture
def guest(host: Instance, new_guest: Callable[[Path], Guest]) -> Guest:
    started = new_guest(host.mountpoint / "ram")
    started.start()
    return started


def run_restore(guest: Guest, state_path: Path, command: list[str] | None = None) -> None:
    report = asyncio.run(restore(state_path, command=command))
    guest.adopt(report.pid, report.child)


def wait_serving(host: Instance, generation: int) -> None:
    def is_serving() -> bool:
        status = host.status()
        return bool(status["state"] == "serving" and status["generation"] == generation)

    assert wait_until(is_serving, RECOVERY_TIMEOUT_S), host.status()


def test_a_guest_does_not_notice_that_the_daemon_is_killed(host: Instance, guest: Guest) -> None:
    generation = host.status()["generation"]
    with Watch(guest, host.mountpoint) as watch:
        os.kill(host.daemon_pid, signal.SIGKILL)
        size_bytes, _ = uncached_stat(guest.memory_path)
        wait_serving(host, generation + 1)
        guest.wait_progress(3)
    assert size_bytes == GUEST_MIB << 20
    assert watch.looks > 0 and watch.absences == 0
    guest.assert_unharmed()


def test_a_guest_does_not_notice_that_the_daemon_is_replaced(host: Instance, guest: Guest) -> None:
    before = host.status()
    with Watch(guest, host.mountpoint) as watch:
        host.cli.run("restart", host.name)
        guest.wait_progress(3)
    after = host.status()
    assert after["generation"] == before["generation"] + 1
    assert after["daemon_pid"] != before["daemon_pid"]
    assert watch.looks > 0 and watch.absences == 0
    guest.assert_unharmed()


def test_a_guest_outlives_holder_and_daemon_and_mount_brings_them_back(host: Instance, guest: Guest) -> None:
    status = host.status()
    os.kill(status["holder_pid"], signal.SIGKILL)
    os.kill(status["daemon_pid"], signal.SIGKILL)
    guest.wait_progress(3)
    host.remount()
    assert host.status()["state"] == "serving"
    assert host.mountpoint.joinpath("ram").stat().st_size == GUEST_MIB << 20
    guest.assert_unharmed()
    assert host.problems() == []


def test_live_update_with_umount_and_mount_in_between(
    host: Instance, guest: Guest, private_dir: Path
) -> None:
    pattern_path = host.mountpoint / "pattern"
    before = write_pattern(pattern_path, 16)
    old_pid = guest.pid
    report = guest.save(private_dir / "state")
    assert report.saved.state_bytes < 4 << 20, "the RAM must not be in the state file"
    stood_at = guest.count()
    host.umount()
    assert mountinfo.find_mountpoint(str(host.mountpoint)) is None
    host.remount()
    run_restore(guest, private_dir / "state")
    assert guest.pid != old_pid
    guest.wait_count(stood_at + 3, RECOVERY_TIMEOUT_S)
    guest.assert_unharmed()
    assert checksum(pattern_path) == before
    mapping = mapping_of(guest.pid, guest.memory_path)
    assert mapping.huge_bytes == mapping.resident_bytes > 0
    assert not (private_dir / "state").exists() and not (private_dir / "state.json").exists()
    assert host.problems() == []


def test_live_update_twice_in_a_row(guest: Guest, private_dir: Path) -> None:
    for _ in range(2):
        guest.save(private_dir / "state")
        run_restore(guest, private_dir / "state")
        guest.assert_unharmed()


def test_map_names_the_qemu_that_maps_the_file(host: Instance, guest: Guest) -> None:
    mapped = host.cli.json("map", guest.memory_path)
    assert [(user["pid"], user["comm"][:4]) for user in mapped["mapped_by"]] == [(guest.pid, "qemu")]
    assert mapped["huge_fraction"] == 1.0


@pytest.fixture
def tiny_dir(private_dir: Path) -> Iterator[Path]:
    """A directory in which a state file finds no room."""
    directory = private_dir / "tiny"
    directory.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tiny", directory], check=True)
    yield directory
    subprocess.run(["umount", directory], check=True)


def test_a_guest_whose_state_finds_no_room_goes_on(guest: Guest, tiny_dir: Path, private_dir: Path) -> None:
    with pytest.raises(SaveError, match="goes on in the old QEMU"):
        guest.save(tiny_dir / "state")
    assert list(tiny_dir.iterdir()) == []
    guest.assert_unharmed()
    guest.save(private_dir / "state")  # and what the failure left behind does not stop the next attempt
    run_restore(guest, private_dir / "state")
    guest.assert_unharmed()


def test_a_restore_that_fails_changes_nothing_and_can_be_tried_again(
    host: Instance, guest: Guest, private_dir: Path
) -> None:
    state_path = private_dir / "state"
    command = guest.command()
    guest.save(state_path)
    other_machine = [argument.replace("pc,", "q35,") for argument in command]
    with pytest.raises(RestoreError, match="QEMU said"):
        run_restore(guest, state_path, other_machine)
    assert host.cli.json("map", guest.memory_path)["mapped_by"] == []
    run_restore(guest, state_path)
    guest.assert_unharmed()


def test_a_truncated_or_damaged_state_file_changes_nothing(guest: Guest, private_dir: Path) -> None:
    state_path = private_dir / "state"
    guest.save(state_path)
    whole = state_path.read_bytes()
    half = whole[: len(whole) // 2]
    state_path.write_bytes(half)
    with pytest.raises(RecordError, match="that were saved"):
        run_restore(guest, state_path)
    state_path.write_bytes(half.ljust(len(whole), b"\xff"))
    with pytest.raises(RestoreError, match="QEMU said"):
        run_restore(guest, state_path)
    state_path.write_bytes(whole)
    run_restore(guest, state_path)
    guest.assert_unharmed()


def test_a_private_mapping_is_refused_and_the_guest_goes_on(
    host: Instance, new_guest: Callable[[Path], Guest], private_dir: Path
) -> None:
    guest = new_guest(host.mountpoint / "ram")
    guest.start(is_shared=False)
    with pytest.raises(NotPreservableError) as caught:
        guest.save(private_dir / "state")
    assert "add share=on to -object memory-backend-file,id=ram0" in (caught.value.hint or "")
    guest.assert_unharmed()


def test_a_file_elsewhere_is_refused_and_the_guest_goes_on(
    new_guest: Callable[[Path], Guest], private_dir: Path
) -> None:
    guest = new_guest(private_dir / "ram-on-disk")
    guest.start()
    with pytest.raises(NotPreservableError, match="not a file on a guestmemfs mount"):
        guest.save(private_dir / "state")
    guest.assert_unharmed()
