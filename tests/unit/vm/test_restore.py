"""Restoring a guest, as far as it goes without a QEMU: the command line, and what a failure leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from guestmemfs_fuse.core.errors import UnsupportedError, UsageError
from guestmemfs_fuse.vm import inspect, process
from guestmemfs_fuse.vm import restore as restore_module
from guestmemfs_fuse.vm.errors import MonitorError, RecordError, RestoreError
from guestmemfs_fuse.vm.record import SavedGuest, read_record, write_record
from guestmemfs_fuse.vm.restore import incoming_command, restore
from tests.unit.vm.fake_qemu import FakeQemu, identify_any
from tests.unit.vm.test_record import SAVED

QMP = Path("/run/qmp.sock")
QMP_ARGUMENTS = ("-qmp", "unix:/run/qmp.sock,server=on,wait=off")


def test_incoming_and_monitor_are_added_to_a_command_that_lacks_them() -> None:
    full = incoming_command(["qemu", "-m", "1G"], QMP)
    assert full == ("qemu", "-m", "1G", "-incoming", "defer", *QMP_ARGUMENTS)


def test_a_command_that_has_them_is_left_alone() -> None:
    command = ("qemu", "-incoming", "defer", *QMP_ARGUMENTS)
    assert incoming_command(command, QMP) == command


@pytest.mark.parametrize("command", [[], ["qemu", "-incoming", "tcp:0:4444"], ["qemu", "-incoming"]])
def test_a_command_that_cannot_be_completed_is_refused(command: list[str]) -> None:
    with pytest.raises(UsageError):
        incoming_command(command, QMP)


@pytest.mark.parametrize(
    ("command", "does"),
    [
        ("guestmemfs run -- qemu -m 1G", True),
        ("/opt/bin/guestmemfs --debug run qemu", True),
        (" ".join(restore_module.RUN) + " qemu", True),
        ("qemu -m 1G", False),
        ("qemu -name run", False),
        ("qemu -mem-path /mnt/guestmemfs/run", False),
    ],
)
def test_a_command_that_starts_by_run_is_known(command: str, does: bool) -> None:
    assert restore_module.starts_by_run(command.split(" ")) is does


@pytest.mark.parametrize("needed", [True, False])
def test_run_is_put_before_a_command_whose_ram_needs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, needed: bool
) -> None:
    started: list[tuple[str, ...]] = []

    def start(command: tuple[str, ...], **_: object) -> object:
        started.append(command)
        raise OSError("enough is known")

    monkeypatch.setattr(inspect, "needs_run", lambda paths: needed)
    monkeypatch.setattr(process, "start", start)
    write_record(tmp_path / "state", SAVED)
    with pytest.raises(RestoreError):
        asyncio.run(restore(tmp_path / "state"))
    before = restore_module.RUN if needed else ()
    assert started == [(*before, *incoming_command(SAVED.command, Path(SAVED.qmp_path)))]


class OrderOfMarks:
    """Writes down what happened to the marks."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def hold(self, paths: Sequence[Path]) -> None:
        self.calls.append("hold")

    def admit(self, paths: Sequence[Path]) -> None:
        self.calls.append("admit")

    def release(self, paths: Sequence[Path]) -> None:
        self.calls.append("release")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("sh", "-c", "echo no such machine >&2; exit 1"), "exit code 1; QEMU said: no such machine"),
        (("no-such-qemu-anywhere",), "No such file"),
    ],
)
def test_a_vmm_that_does_not_start_leaves_the_guest_saved_and_marked(
    tmp_path: Path, command: tuple[str, ...], words: str
) -> None:
    state_path = tmp_path / "state"
    state_path.write_bytes(b"QEVM")
    saved = replace(SAVED, command=command, directory=str(tmp_path), qmp_path=str(tmp_path / "q"))
    write_record(state_path, saved)
    marks = OrderOfMarks()
    with pytest.raises(RestoreError, match=words):
        asyncio.run(restore(state_path, marks=marks))
    assert state_path.read_bytes() == b"QEVM" and read_record(state_path) == saved
    assert marks.calls == ["admit", "hold"]


def test_a_state_file_without_a_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"QEVM")
    with pytest.raises(RecordError):
        asyncio.run(restore(tmp_path / "state"))


# -- what the new VMM is asked before anything is loaded ----------------------------------------------


def look(saved: SavedGuest, tmp_path: Path, *, is_new: bool = False, status: str = "inmigrate") -> None:
    qemu = FakeQemu(tmp_path / "ram", is_new=is_new)
    qemu.status = status
    try:
        asyncio.run(restore_module._look(qemu, saved, identify_any))
    finally:
        qemu.end()


def test_a_vmm_that_waits_with_the_same_ram_is_taken(tmp_path: Path) -> None:
    look(replace(SAVED, ram_paths=(str(tmp_path / "ram"),)), tmp_path)


def test_a_vmm_with_other_ram_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="/mnt/guest one"):
        look(SAVED, tmp_path)


def test_a_vmm_that_already_runs_something_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MonitorError, match="running"):
        look(SAVED, tmp_path, status="running")


def test_a_vmm_too_old_for_the_state_is_refused(tmp_path: Path) -> None:
    saved = replace(SAVED, uses_cpr=True, ram_paths=(str(tmp_path / "ram"),))
    with pytest.raises(UnsupportedError, match="cpr-reboot"):
        look(saved, tmp_path)
    look(saved, tmp_path, is_new=True)
