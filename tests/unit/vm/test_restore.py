"""Restoring a guest, as far as it goes without a QEMU: the command line, and what a failure leaves."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from guestmemfs_fuse.core.errors import InstanceBusyError, UnsupportedError, UsageError
from guestmemfs_fuse.vm import inspect, process
from guestmemfs_fuse.vm import restore as restore_module
from guestmemfs_fuse.vm.errors import MonitorError, RecordError, RestoreError
from guestmemfs_fuse.vm.record import SavedGuest, claimed, read_record, write_record
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


@pytest.mark.parametrize(
    ("path", "option", "is_there"),
    [
        ("/run/q", "unix:/run/q,server=on", True),
        ("/run/q", "unix:/run/q", True),
        ("/run/q", "qemu -qmp unix:/run/q -m 1G", True),
        ("/run/q", "unix:/run/q.sock,server=on", False),
        ("/run/q", "unix:/run/q,,2,server=on", False),
        ("/run/q,2", "unix:/run/q,,2,server=on", True),
    ],
)
def test_regression_a_monitor_counts_only_where_its_whole_path_stands(
    path: str, option: str, is_there: bool
) -> None:
    full = incoming_command(["qemu", "-qmp", option], Path(path))
    added = () if is_there else ("-qmp", f"unix:{path},server=on,wait=off")
    assert full[3:] == ("-incoming", "defer", *added)


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
    write_record(tmp_path / "state", replace(SAVED, state_bytes=0))
    (tmp_path / "state").touch()
    with pytest.raises(RestoreError):
        asyncio.run(restore(tmp_path / "state"))
    before = restore_module.RUN if needed else ()
    assert started == [(*before, *incoming_command(SAVED.command, Path(SAVED.qmp_path)))]


def startable(command: tuple[str, ...], directory: Path) -> SavedGuest:
    """A guest whose state is b"QEVM"."""
    qmp_path = str(directory / "q")
    return replace(SAVED, command=command, directory=str(directory), qmp_path=qmp_path, state_bytes=4)


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
        (("no-such-qemu-anywhere",), "not restored: no-such-qemu-anywhere: No such file or directory$"),
    ],
)
def test_a_vmm_that_does_not_start_leaves_the_guest_saved_and_marked(
    tmp_path: Path, command: tuple[str, ...], words: str
) -> None:
    state_path = tmp_path / "state"
    state_path.write_bytes(b"QEVM")
    saved = startable(command, tmp_path)
    write_record(state_path, saved)
    marks = OrderOfMarks()
    with pytest.raises(RestoreError, match=words):
        asyncio.run(restore(state_path, marks=marks))
    assert state_path.read_bytes() == b"QEVM" and read_record(state_path) == saved
    assert marks.calls == ["admit", "hold"]


@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "cannot read .*state: No such file"), (b"QEV", "has 3 bytes of the 4 that were saved")],
)
def test_regression_a_state_that_is_not_all_there_is_refused_before_a_vmm_waits_for_it(
    tmp_path: Path, content: bytes | None, words: str
) -> None:
    write_record(tmp_path / "state", startable(("touch", str(tmp_path / "started")), tmp_path))
    if content is not None:
        (tmp_path / "state").write_bytes(content)
    with pytest.raises(RecordError, match=words):
        asyncio.run(restore(tmp_path / "state"))
    assert not (tmp_path / "started").exists()


def test_regression_a_refused_mark_says_what_helps_and_quotes_no_vmm_of_an_earlier_attempt(
    tmp_path: Path,
) -> None:
    class Refusing(OrderOfMarks):
        def admit(self, paths: Sequence[Path]) -> None:
            raise UsageError("it holds another guest", hint="--force loads it all the same")

    write_record(tmp_path / "state", startable(("true",), tmp_path))
    (tmp_path / "state").write_bytes(b"QEVM")
    (tmp_path / "state.qemu.log").write_text("last week's words")
    with pytest.raises(RestoreError) as caught:
        asyncio.run(restore(tmp_path / "state", marks=Refusing()))
    assert caught.value.message == "not restored: it holds another guest"
    assert caught.value.hint is not None and caught.value.hint.startswith("--force loads it all the same; ")


def test_a_state_file_without_a_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "state").write_bytes(b"QEVM")
    with pytest.raises(RecordError):
        asyncio.run(restore(tmp_path / "state"))


# -- what the new VMM is asked before anything is loaded ----------------------------------------------


def look(saved: SavedGuest, tmp_path: Path, *, is_new: bool = False, status: str = "inmigrate") -> None:
    qemu = FakeQemu(tmp_path / "ram", is_new=is_new)
    qemu.status = status
    try:
        asyncio.run(restore_module._require_waiting(qemu))
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


def test_regression_ctrl_c_while_the_guest_goes_on_comes_too_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted(FakeQemu):
        """Has its caller cancelled as soon as the guest runs."""

        async def execute(self, command: str, **arguments: object) -> object:
            answer = await super().execute(command, **arguments)
            if command == "cont":
                restoring.cancel()
                await asyncio.sleep(0)
            return answer

    async def restore_it() -> restore_module.RestoreReport:
        nonlocal restoring
        restoring = asyncio.ensure_future(restore(state_path, marks=marks, identify=identify_any))
        return await restoring

    async def greet(*_: object) -> FakeQemu:
        return qemu

    restoring: asyncio.Future[restore_module.RestoreReport]
    state_path, marks = tmp_path / "state", OrderOfMarks()
    state_path.write_bytes(b"QEVM")
    ram_paths = (str(tmp_path / "ram"),)
    write_record(state_path, replace(startable(("true",), tmp_path), ram_paths=ram_paths))
    qemu = Interrupted(tmp_path / "ram")
    qemu.status = "inmigrate"
    monkeypatch.setattr(inspect, "needs_run", lambda paths: False)
    monkeypatch.setattr(process, "start", lambda *_, **__: qemu.process)
    monkeypatch.setattr(restore_module, "_greet", greet)
    try:
        report = asyncio.run(restore_it())
        assert report.pid == qemu.pid and qemu.process.poll() is None and qemu.status == "running"
    finally:
        qemu.end()
    # Its state is worth nothing from here on: nobody may load it a second time.
    assert marks.calls == ["admit", "release"] and not state_path.exists()


def test_regression_a_guest_that_is_being_restored_is_not_restored_a_second_time(tmp_path: Path) -> None:
    """The second one found the first one's QEMU, running, and killed it: the guest was lost."""
    write_record(tmp_path / "state", startable(("touch", str(tmp_path / "started")), tmp_path))
    (tmp_path / "state").write_bytes(b"QEVM")
    with claimed(tmp_path / "state"), pytest.raises(InstanceBusyError, match="already"):
        asyncio.run(restore(tmp_path / "state"))
    assert not (tmp_path / "started").exists()


def test_regression_a_vmm_at_the_monitor_path_is_not_taken_for_the_new_one(tmp_path: Path) -> None:
    write_record(tmp_path / "state", startable(("touch", str(tmp_path / "started")), tmp_path))
    (tmp_path / "state").write_bytes(b"QEVM")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(tmp_path / "q"))
        listening.listen(1)
        with pytest.raises(InstanceBusyError, match="monitor at"):
            asyncio.run(restore(tmp_path / "state"))
    assert not (tmp_path / "started").exists()


def test_a_vmm_that_runs_a_guest_is_never_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def greet(*_: object) -> FakeQemu:
        return stranger

    (tmp_path / "state").write_bytes(b"QEVM")
    write_record(tmp_path / "state", startable(("true",), tmp_path))
    monkeypatch.setattr(inspect, "needs_run", lambda paths: False)
    monkeypatch.setattr(restore_module, "_greet", greet)
    stranger = FakeQemu(tmp_path / "ram")
    try:
        with pytest.raises(RestoreError, match="running"):
            asyncio.run(restore(tmp_path / "state"))
        assert stranger.process.poll() is None
    finally:
        stranger.end()
