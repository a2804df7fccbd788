"""Saving a guest: what is done in which order, and that every failure leaves it running."""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from guestmemfs_fuse.core.errors import GuestmemfsError, UsageError
from guestmemfs_fuse.linux import mountinfo
from guestmemfs_fuse.vm.errors import NotPreservableError, SaveError
from guestmemfs_fuse.vm.record import read_record, record_path
from guestmemfs_fuse.vm.save import SaveReport, save
from tests.unit.vm.fake_qemu import FakeQemu, identify_any


class RecordingMarks:
    """Remembers which files are marked."""

    def __init__(self) -> None:
        self.held: set[Path] = set()

    def hold(self, paths: Sequence[Path]) -> None:
        self.held |= set(paths)

    def admit(self, paths: Sequence[Path]) -> None:
        raise AssertionError("saving admits nobody")

    def release(self, paths: Sequence[Path]) -> None:
        self.held -= set(paths)


@pytest.fixture
def memory_path(tmp_path: Path) -> Path:
    path = tmp_path / "guest ram"
    path.touch()
    return path


@pytest.fixture
def qemu(memory_path: Path) -> Iterator[FakeQemu]:
    fake = FakeQemu(memory_path)
    yield fake
    fake.end()


def run_save(qemu: FakeQemu, state_path: Path, **options: object) -> SaveReport:
    options = {"identify": identify_any, "timeout_s": 5.0, **options}
    return asyncio.run(save(qemu, state_path, qmp_path=Path("qmp.sock"), **options))  # type: ignore[arg-type]


def test_save_leaves_state_and_record_and_quits_the_old_vmm(qemu: FakeQemu, tmp_path: Path) -> None:
    state_path = tmp_path / "state"
    report = run_save(qemu, state_path)
    assert state_path.read_bytes() == qemu.state
    assert state_path.stat().st_mode & 0o777 == 0o600
    assert read_record(state_path) == report.saved
    assert report.saved.ram_paths == (str(tmp_path / "guest ram"),)
    assert report.saved.state_bytes == len(qemu.state)
    assert report.saved.was_running and report.saved.is_ram_in_place
    assert report.saved.command == ("cat",)
    assert [step.name for step in report.steps] == ["look", "stop", "save", "quit"]
    assert qemu.process.returncode == 0 and not report.was_killed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["guest ram", "state", "state.json"]


def test_old_qemu_is_asked_for_ignore_shared_through_a_shell_that_understands_any_path(
    qemu: FakeQemu, tmp_path: Path
) -> None:
    state_path = tmp_path / "it's; rm -rf"
    run_save(qemu, state_path)
    assert qemu.uri == f"exec:cat > {shlex.quote(str(state_path) + '.partial')}"
    assert qemu.capabilities["x-ignore-shared"] is True
    assert qemu.parameters == {"max-bandwidth": 0}


def test_new_qemu_is_asked_for_cpr_reboot_to_a_file(memory_path: Path, tmp_path: Path) -> None:
    qemu = FakeQemu(memory_path, is_new=True)
    report = run_save(qemu, tmp_path / "state")
    assert qemu.uri == f"file:{tmp_path}/state.partial"
    assert qemu.parameters["mode"] == "cpr-reboot"
    assert qemu.capabilities["x-ignore-shared"] is True
    assert report.saved.uses_cpr


def test_what_a_killed_save_left_is_replaced_and_never_written_through(
    qemu: FakeQemu, tmp_path: Path
) -> None:
    (tmp_path / "precious").write_text("untouched")
    (tmp_path / "state.partial").symlink_to(tmp_path / "precious")
    run_save(qemu, tmp_path / "state")
    assert (tmp_path / "precious").read_text() == "untouched"
    assert not (tmp_path / "state").is_symlink()


def test_saving_with_ram_leaves_the_capability_off(qemu: FakeQemu, tmp_path: Path) -> None:
    report = run_save(qemu, tmp_path / "state", is_ram_in_place=False)
    assert qemu.capabilities["x-ignore-shared"] is False
    assert not report.saved.is_ram_in_place


def test_a_guest_that_was_paused_is_remembered_as_paused(qemu: FakeQemu, tmp_path: Path) -> None:
    qemu.status = "paused"
    assert not run_save(qemu, tmp_path / "state").saved.was_running


def test_the_ram_files_stay_marked(qemu: FakeQemu, tmp_path: Path) -> None:
    marks = RecordingMarks()
    run_save(qemu, tmp_path / "state", marks=marks)
    assert marks.held == {tmp_path / "guest ram"}


def test_ram_that_would_be_lost_is_refused_before_anything_is_touched(qemu: FakeQemu, tmp_path: Path) -> None:
    qemu.backend["share"] = False
    marks = RecordingMarks()
    with pytest.raises(NotPreservableError) as caught:
        run_save(qemu, tmp_path / "state", marks=marks)
    assert "share=on" in (caught.value.hint or "")
    assert qemu.status == "running" and not marks.held
    assert not {"stop", "migrate", "migrate-set-capabilities"} & set(qemu.commands)


def test_a_state_file_that_exists_is_never_overwritten(qemu: FakeQemu, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("another guest")
    with pytest.raises(UsageError):
        run_save(qemu, tmp_path / "state")
    assert (tmp_path / "state").read_text() == "another guest"
    assert qemu.commands == []


@pytest.mark.parametrize("status", ["inmigrate", "postmigrate", "prelaunch", "internal-error", "shutdown"])
def test_a_guest_in_no_state_to_be_saved_is_refused(qemu: FakeQemu, tmp_path: Path, status: str) -> None:
    qemu.status = status
    with pytest.raises(UsageError, match=status) as caught:
        run_save(qemu, tmp_path / "state")
    # What a save that was killed by SIGKILL leaves: nobody would guess the way back.
    assert ("vm discard" in (caught.value.hint or "")) is (status == "postmigrate")
    assert "stop" not in qemu.commands


def assert_rolled_back(qemu: FakeQemu, marks: RecordingMarks, state_path: Path) -> None:
    assert qemu.status == "running"
    assert qemu.capabilities["x-ignore-shared"] is False
    assert qemu.process.poll() is None
    assert not marks.held
    assert not state_path.exists() and not record_path(state_path).exists()
    assert not state_path.with_name("state.partial").exists()


def test_every_command_that_fails_leaves_the_guest_as_it_was(memory_path: Path, tmp_path: Path) -> None:
    whole = FakeQemu(memory_path, is_new=True)
    run_save(whole, tmp_path / "whole")
    assert whole.commands[-1] == "quit"
    for fail_at in range(1, len(whole.commands)):
        qemu = FakeQemu(memory_path, is_new=True, fail_at=fail_at)
        marks = RecordingMarks()
        try:
            with pytest.raises(GuestmemfsError, match="as the test wants"):
                run_save(qemu, tmp_path / "state", marks=marks)
            assert_rolled_back(qemu, marks, tmp_path / "state")
        finally:
            qemu.end()


def test_a_vmm_that_does_not_quit_is_killed_once_the_guest_is_saved(
    qemu: FakeQemu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guestmemfs_fuse.vm.save.QUIT_TIMEOUT_S", 0.05)
    monkeypatch.setattr(qemu, "_quit", lambda: None)
    marks = RecordingMarks()
    assert run_save(qemu, tmp_path / "state", marks=marks).was_killed
    assert qemu.process.wait() == -signal.SIGKILL
    assert (tmp_path / "state").exists() and marks.held


@pytest.mark.parametrize("ending", ["failed", "cancelled"])
def test_a_migration_that_does_not_complete_is_rolled_back(
    qemu: FakeQemu, tmp_path: Path, ending: str
) -> None:
    qemu.migration_ends_as = ending
    marks = RecordingMarks()
    with pytest.raises(SaveError, match=r"disk on fire.*the guest goes on in the old QEMU"):
        run_save(qemu, tmp_path / "state", marks=marks)
    assert_rolled_back(qemu, marks, tmp_path / "state")


def test_a_migration_that_never_ends_is_cancelled(qemu: FakeQemu, tmp_path: Path) -> None:
    qemu.migration_ends_as = "never"
    with pytest.raises(SaveError, match="did not end within"):
        run_save(qemu, tmp_path / "state", timeout_s=0.02)
    assert "migrate_cancel" in qemu.commands
    assert_rolled_back(qemu, RecordingMarks(), tmp_path / "state")


def test_a_state_file_without_state_is_rolled_back(qemu: FakeQemu, tmp_path: Path) -> None:
    qemu.state = b""
    with pytest.raises(SaveError, match="holds none"):
        run_save(qemu, tmp_path / "state")
    assert_rolled_back(qemu, RecordingMarks(), tmp_path / "state")


def test_ctrl_c_in_the_blackout_lets_the_guest_go_on(qemu: FakeQemu, tmp_path: Path) -> None:
    qemu.migration_ends_as = "never"
    marks = RecordingMarks()

    async def interrupted() -> None:
        task = asyncio.create_task(
            save(qemu, tmp_path / "state", qmp_path=Path("q"), identify=identify_any, marks=marks)
        )
        while "migrate" not in qemu.commands:
            await asyncio.sleep(0)
        task.cancel()
        await task

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(interrupted())
    assert_rolled_back(qemu, marks, tmp_path / "state")


def test_regression_ctrl_c_at_any_moment_leaves_a_running_guest_or_one_that_was_saved(
    memory_path: Path, tmp_path: Path
) -> None:
    class Interrupted(FakeQemu):
        """Has its caller cancelled while the nth command is under way."""

        async def execute(self, command: str, **arguments: object) -> object:
            answer = await super().execute(command, **arguments)
            if len(self.commands) == nth:
                saving.cancel()
                await asyncio.sleep(0)
            return answer

    async def save_it() -> str:
        nonlocal saving
        marks = RecordingMarks()
        saving = asyncio.ensure_future(
            save(qemu, state_path, qmp_path=Path("qmp.sock"), marks=marks, identify=identify_any)
        )
        try:
            await saving
        except asyncio.CancelledError:
            assert qemu.status == "running" and qemu.process.poll() is None
            assert not marks.held and not list(tmp_path.glob("state*"))
            return "undone"
        assert qemu.process.poll() == 0 and marks.held and read_record(state_path)
        return "saved"

    saving: asyncio.Future[SaveReport]
    outcomes = []
    for nth in range(1, 30):
        state_path = tmp_path / f"state{nth}"
        qemu = Interrupted(memory_path)
        outcomes.append(asyncio.run(save_it()))
        qemu.end()
        if len(qemu.commands) < nth:
            break  # it was over before
        for path in tmp_path.glob("state*"):
            path.unlink()
    assert outcomes.count("undone") > 10 and outcomes[-2:] == ["saved", "saved"]


def test_virtio_mem_on_an_old_qemu_is_warned_about(qemu: FakeQemu, tmp_path: Path) -> None:
    qemu.memory_devices = [{"type": "virtio-mem", "data": {"id": "vmem0"}}]
    (warning,) = run_save(qemu, tmp_path / "state").warnings
    assert "vmem0" in warning


def test_regression_a_state_file_on_a_mount_of_ours_is_refused_before_the_guest_is_touched(
    qemu: FakeQemu, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The guest was stopped and went on, and the reason was a broken pipe."""
    device = tmp_path.stat().st_dev
    line = f"9 1 {os.major(device)}:{os.minor(device)} / /mnt/guests rw - {mountinfo.OURS} guests rw"
    monkeypatch.setattr(mountinfo, "read_mounts", lambda: [mountinfo.parse_line(line)])
    with pytest.raises(UsageError, match="is on a guestmemfs mount"):
        run_save(qemu, tmp_path / "state")
    assert qemu.commands == []
