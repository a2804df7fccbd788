"""`guestmemfs vm` on real guests: saved and restored by command, guarded while they rest, all at once."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli import Guestmemfs, Instance
from tests.guest.rig import BootFiles, Guest, wait_until

GUEST_MIB = 128
SOON_S = 60.0


@pytest.fixture
def host(guestmemfs: Guestmemfs, request: pytest.FixtureRequest) -> Instance:
    """On tmpfs, unless a test asks for another kind."""
    return guestmemfs.mount("host", "--region", getattr(request, "param", "tmpfs"), size="512M")


@pytest.fixture
def new_guest(host: Instance, private_dir: Path, boot: BootFiles) -> Iterator[Callable[[str], Guest]]:
    guests: list[Guest] = []

    def make(name: str) -> Guest:
        directory = private_dir / name
        directory.mkdir()
        guests.append(Guest(boot, directory, host.mountpoint / name, GUEST_MIB))
        return guests[-1]

    yield make
    for guest in guests:
        guest.kill()


@pytest.fixture
def guest(new_guest: Callable[[str], Guest]) -> Guest:
    started = new_guest("vm1")
    started.start()
    return started


@pytest.fixture
def state(private_dir: Path) -> Path:
    return private_dir / "vm1.state"


def open_errno(path: Path) -> int:
    try:
        os.close(os.open(path, os.O_RDWR))
    except OSError as error:
        return error.errno or 0
    return 0


def mark(host: Instance, guest: Guest) -> str | None:
    marked: str | None = host.cli.json("map", guest.memory_path)["saved_guest"]
    return marked


@pytest.mark.parametrize("host", ["tmpfs", "memfd"], indirect=True)
def test_a_guest_is_saved_and_restored_by_command_across_umount(
    host: Instance, guest: Guest, state: Path
) -> None:
    saved = host.cli.json("vm", "save", "--qmp", guest.qmp_path, "--state", state)
    assert [step["name"] for step in saved["steps"]] == ["look", "stop", "save", "quit"]
    assert all(step["took_ns"] > 0 for step in saved["steps"])
    assert saved["ram_paths"] == [str(guest.memory_path)] and saved["state_bytes"] < 4 << 20
    assert wait_until(lambda: not guest.is_alive(), SOON_S)
    stood_at = guest.count()
    resting = host.cli.json("vm", "list")
    assert [(row["state"], row["state_path"]) for row in resting] == [("saved", str(state))]
    host.umount()
    assert host.cli.json("vm", "list") == resting, "also of an instance that is not mounted"
    assert host.cli.json("vm", "list", "--target", host.name) == resting
    host.remount()
    assert mark(host, guest) == str(state), "the mark is metadata: it outlives daemon and mount"
    restored = host.cli.json("vm", "restore", "--state", state)
    guest.adopt(restored["pid"])
    assert [step["name"] for step in restored["steps"]] == ["start", "look", "load", "continue"]
    guest.wait_count(stood_at + 3, SOON_S)
    guest.assert_unharmed()
    assert mark(host, guest) is None and open_errno(guest.memory_path) == 0
    assert not state.exists()


def test_nobody_boots_over_a_saved_guest(host: Instance, guest: Guest, state: Path) -> None:
    host.cli.run("vm", "save", "--qmp", guest.qmp_path, "--state", state)
    assert open_errno(guest.memory_path) == errno.EBUSY
    # The same command line as ever: what an operator, or libvirt's autostart, would do.
    booted = subprocess.run(guest.command(), capture_output=True, text=True, timeout=SOON_S)
    assert booted.returncode != 0 and "busy" in booted.stderr.lower()
    with pytest.raises(OSError) as refused:
        guest.memory_path.unlink()
    assert refused.value.errno == errno.EBUSY
    assert host.cli.run("resize-file", guest.memory_path, "--size", "2M", check=False).returncode != 0
    guest.adopt(host.cli.json("vm", "restore", "--state", state)["pid"])
    guest.assert_unharmed()


def test_discard_gives_the_file_back_and_the_state_is_refused_from_then_on(
    host: Instance, guest: Guest, state: Path
) -> None:
    host.cli.run("vm", "save", "--qmp", guest.qmp_path, "--state", state)
    assert str(state) in host.cli.run("vm", "discard", guest.memory_path).stdout
    assert open_errno(guest.memory_path) == 0
    assert host.cli.run("vm", "discard", guest.memory_path, check=False).returncode == 1
    refused = host.cli.run("vm", "restore", "--state", state, check=False)
    assert refused.returncode == 1 and "holds no saved guest" in refused.stderr
    assert mark(host, guest) is None, "a refusal leaves no mark behind"
    # Nothing has run on it since, and the operator says so.
    guest.adopt(host.cli.json("vm", "restore", "--state", state, "--force")["pid"])
    guest.assert_unharmed()


def test_a_state_file_of_another_moment_is_refused(host: Instance, guest: Guest, state: Path) -> None:
    host.cli.run("vm", "save", "--qmp", guest.qmp_path, "--state", state)
    stale = state.with_name("stale")
    for suffix in ("", ".json"):
        shutil.copy(f"{state}{suffix}", f"{stale}{suffix}")
    refused = host.cli.run("vm", "restore", "--state", stale, check=False)
    assert refused.returncode == 1 and f"saved in {state}" in refused.stderr
    assert mark(host, guest) == str(state)
    guest.adopt(host.cli.json("vm", "restore", "--state", state)["pid"])
    guest.assert_unharmed()


def test_a_save_that_fails_leaves_the_guest_running_and_unmarked(
    host: Instance, guest: Guest, private_dir: Path
) -> None:
    tiny = private_dir / "tiny"
    tiny.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tiny", tiny], check=True)
    try:
        failed = host.cli.run("vm", "save", "--qmp", guest.qmp_path, "--state", tiny / "state", check=False)
        assert list(tiny.iterdir()) == []
    finally:
        subprocess.run(["umount", tiny], check=True)
    assert failed.returncode == 1 and "goes on in the old QEMU" in failed.stderr
    assert mark(host, guest) is None
    guest.assert_unharmed()


STANDS_STILL = """
import asyncio, os, sys
if "save" in sys.orig_argv:
    from guestmemfs_fuse.vm import migration
    async def wait_until_completed(*args, **kwargs):
        open({reached!r}, "w").close()
        await asyncio.sleep(1000)
    migration.wait_until_completed = wait_until_completed
"""
"""A save that has begun, marked, stopped and told QEMU to write, and never hears that it is written."""


def test_a_save_that_is_terminated_leaves_the_guest_running_and_unmarked(
    host: Instance, guest: Guest, private_dir: Path
) -> None:
    reached, state = private_dir / "reached", private_dir / "state"
    held = host.cli.tampered(STANDS_STILL.format(reached=str(reached)))
    saving = held.start("vm", "save", "--qmp", guest.qmp_path, "--state", state)
    assert wait_until(lambda: reached.exists() or saving.poll() is not None, SOON_S)
    assert saving.poll() is None, saving.communicate()
    assert open_errno(guest.memory_path) == errno.EBUSY
    saving.terminate()
    _, said = saving.communicate(timeout=SOON_S)
    assert (saving.returncode, said.strip()) == (130, "interrupted")
    assert mark(host, guest) is None and not list(private_dir.glob("state*"))
    guest.assert_unharmed()


def test_a_restore_that_fails_leaves_the_guest_resting_and_guarded(
    host: Instance, guest: Guest, state: Path
) -> None:
    host.cli.run("vm", "save", "--qmp", guest.qmp_path, "--state", state)
    other_machine = [argument.replace("pc,", "q35,") for argument in guest.command()]
    failed = host.cli.run("vm", "restore", "--state", state, "--", *other_machine, check=False)
    assert failed.returncode == 1 and "QEMU said" in failed.stderr
    assert mark(host, guest) == str(state) and open_errno(guest.memory_path) == errno.EBUSY
    restore = ("vm", "restore", "--json", "--state", state, "--", *guest.command()[1:])
    guest.adopt(json.loads(host.cli.run(*restore).stdout)["pid"])
    guest.assert_unharmed()


def test_a_guest_of_another_instance_is_not_saved(host: Instance, guest: Guest, state: Path) -> None:
    host.cli.mount("other")
    save = ("vm", "save", "--qmp", guest.qmp_path, "--state", state)
    assert host.cli.run(*save, "--target", "other", check=False).returncode == 2
    assert (
        host.cli.run("vm", "save", "--all", state.parent / "s", "--target", "other", check=False).returncode
        == 3
    )
    guest.assert_unharmed()


def test_all_guests_are_saved_and_restored_at_once(
    host: Instance, new_guest: Callable[[str], Guest], private_dir: Path
) -> None:
    guests = {name: new_guest(name) for name in ("one", "two")}
    for guest in guests.values():
        guest.start()
    listed = host.cli.json("vm", "list")
    assert [(row["name"], row["state"], row["pid"]) for row in listed] == [
        (name, "running", guest.pid) for name, guest in guests.items()
    ]
    directory = private_dir / "saved"
    saved = host.cli.json("vm", "save", "--all", directory)["guests"]
    assert [(row["name"], row["ok"]) for row in saved] == [("one", True), ("two", True)]
    assert {row["state"] for row in host.cli.json("vm", "list")} == {"saved"}
    # One of the two cannot come back: the other does, and the table says which is which.
    broken = directory / "two.state"
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2].ljust(len(whole), b"\xff"))
    partly = host.cli.run("vm", "restore", "--all", directory, "--json", check=False)
    assert partly.returncode == 1
    rows = {row["name"]: row for row in json.loads(partly.stdout)["guests"]}
    assert rows["one"]["ok"] and not rows["two"]["ok"] and "not restored" in rows["two"]["error"]
    guests["one"].adopt(rows["one"]["pid"])
    broken.write_bytes(whole)
    done = host.cli.run("vm", "restore", "--all", directory)
    assert done.stdout.splitlines()[0].split() == [
        "GUEST",
        "RESULT",
        "BLACKOUT",
        "FILE,",
        "OR",
        "WHAT",
        "TO",
        "DO",
    ]
    assert done.stdout.splitlines()[1].split()[:2] == ["two", "restored"]
    pids = {row["name"]: row["pid"] for row in host.cli.json("vm", "list")}
    guests["two"].adopt(pids["two"])
    for guest in guests.values():
        guest.assert_unharmed()


def test_interrupted_work_on_all_guests_says_which_is_where(
    host: Instance, new_guest: Callable[[str], Guest], private_dir: Path
) -> None:
    quick, stuck = new_guest("quick"), new_guest("stuck")
    for guest in (quick, stuck):
        guest.start()
    directory = private_dir / "saved"
    os.kill(stuck.pid, signal.SIGSTOP)
    try:
        patient = dataclasses.replace(host.cli, environment={"GUESTMEMFS_PATIENCE": "20"})
        saving = patient.start("vm", "save", "--all", directory)
        assert wait_until(lambda: not quick.is_alive(), 60)
        saving.send_signal(signal.SIGINT)
    finally:
        os.kill(stuck.pid, signal.SIGCONT)
    told, said = saving.communicate(timeout=30)
    assert (saving.returncode, said.strip()) == (130, "interrupted")
    rows = {line.split()[0]: line for line in told.splitlines()[1:]}
    assert " saved " in rows["quick"] and str(directory / "quick.state") in rows["quick"]
    assert "NOT saved: interrupted" in rows["stuck"]
    stuck.assert_unharmed()
    quick.adopt(host.cli.json("vm", "restore", "--all", directory)["guests"][0]["pid"])
    quick.assert_unharmed()


def test_a_guest_without_a_monitor_is_a_clear_row_and_exit_code_1(
    host: Instance, new_guest: Callable[[str], Guest], private_dir: Path
) -> None:
    mute, good = new_guest("mute"), new_guest("good")
    command = mute.command()
    at = command.index("-qmp")
    quiet = subprocess.Popen(command[:at] + command[at + 2 :], stdin=subprocess.DEVNULL)
    try:
        good.start()
        assert wait_until(lambda: len(host.cli.json("vm", "list")) == 2, SOON_S)
        done = host.cli.run("vm", "save", "--all", private_dir / "saved", "--json", check=False)
        assert done.returncode == 1 and "1 of 2 guests were not saved" in done.stderr
        rows = {row["name"]: row for row in json.loads(done.stdout)["guests"]}
        assert rows["good"]["ok"] and "no monitor" in rows["mute"]["error"] and "-qmp" in rows["mute"]["hint"]
        assert quiet.poll() is None
    finally:
        quiet.kill()
        quiet.wait()
    guest_pid = host.cli.json("vm", "restore", "--all", private_dir / "saved")["guests"][0]["pid"]
    good.adopt(guest_pid)
    good.assert_unharmed()
