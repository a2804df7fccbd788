"""Marks over the control socket: what is asked of which daemon, and what a wrong mark does."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from guestmemfs_fuse.control import client
from guestmemfs_fuse.core.errors import DaemonError, UsageError
from guestmemfs_fuse.metadata import instance as registry
from guestmemfs_fuse.vm.control_marks import RestoringMarks, SavingMarks
from tests.unit.cli.fakes import a_config

RAM, DISK = Path("/mnt/guests/ram"), Path("/mnt/guests/dir/more")


class FakeDaemon:
    """Keeps marks; dead: does not answer."""

    def __init__(self) -> None:
        self.marks: dict[str, str] = {}
        self.open_doors: set[str] = set()
        self.dead = False

    def call(self, state_dir: str, op: str, args: Mapping[str, Any], **options: object) -> object:
        assert (op, state_dir.rpartition("/")[2]) == ("mark", "guests")
        if self.dead:
            raise DaemonError("nobody answers")
        before = self.marks.get(args["path"], "")
        self.marks[args["path"]] = args["mark"]
        (self.open_doors.add if args["openable"] else self.open_doors.discard)(args["path"])
        return {"mark": args["mark"], "before": before}


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDaemon:
    monkeypatch.setenv(registry.RUN_DIR_VARIABLE, str(tmp_path / "run"))
    a_config().save(registry.register("guests").state_dir)
    fake = FakeDaemon()
    monkeypatch.setattr(client, "call", fake.call)
    return fake


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


def test_saving_marks_files_with_the_state_and_lifts_the_marks_of_a_guest_that_goes_on(
    daemon: FakeDaemon, state: Path
) -> None:
    marks = SavingMarks(state)
    marks.hold([RAM, DISK])
    assert daemon.marks == {"/ram": str(state), "/dir/more": str(state)}
    assert not daemon.open_doors
    marks.release([RAM, DISK])
    assert set(daemon.marks.values()) == {""}


def test_restoring_opens_the_door_of_its_own_guest_only(daemon: FakeDaemon, state: Path) -> None:
    daemon.marks = {"/ram": str(state)}
    marks = RestoringMarks(state)
    marks.admit([RAM])
    assert daemon.open_doors == {"/ram"}
    marks.hold([RAM])
    assert not daemon.open_doors and daemon.marks == {"/ram": str(state)}
    marks.release([RAM])
    assert daemon.marks == {"/ram": ""}


@pytest.mark.parametrize("mark", ["", "/elsewhere/state"])
def test_a_guest_of_another_state_keeps_its_mark(daemon: FakeDaemon, state: Path, mark: str) -> None:
    daemon.marks = {"/ram": str(state), "/dir/more": mark}
    marks = RestoringMarks(state)
    with pytest.raises(UsageError, match="holds"):
        marks.admit([RAM, DISK])
    marks.hold([RAM, DISK])
    assert daemon.marks == {"/ram": str(state), "/dir/more": mark}
    assert not daemon.open_doors


def test_force_takes_any_mark(daemon: FakeDaemon, state: Path) -> None:
    daemon.marks = {"/ram": "/elsewhere/state"}
    RestoringMarks(state, force=True).admit([RAM])
    assert daemon.open_doors == {"/ram"}


def test_lifting_a_mark_never_raises_but_says_what_did_not_work(daemon: FakeDaemon, state: Path) -> None:
    daemon.dead = True
    for marks in (SavingMarks(state), RestoringMarks(state)):
        marks.release([RAM])
        assert marks.remarks == [f"the mark of {RAM} could not be changed: nobody answers"]
    with pytest.raises(DaemonError):
        SavingMarks(state).hold([RAM])
