"""What ExecStop= does depends on what systemd is about, and that has to be asked."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from guestmemfs_fuse.cli import unit_state, unit_stop
from guestmemfs_fuse.metadata.instance import Instance

STOP = "1234 guestmemfs@guests.service stop running\n"
RESTART = "1234 guestmemfs@guests.service restart running\n"


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[object]:
    """What systemctl says in turn, the last again and again: jobs, an exit status, or an error."""
    said: list[object] = []

    def run(command: list[str], **options: Any) -> object:
        answer = said.pop(0) if len(said) > 1 else said[0]
        if isinstance(answer, Exception):
            raise answer
        if isinstance(answer, int):
            return subprocess.CompletedProcess(command, answer, "", "Connection reset by peer")
        return subprocess.CompletedProcess(command, 0, answer, "")

    monkeypatch.setattr(unit_state, "SYSTEMD", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(unit_stop, "_AGAIN_S", 0.0)
    monkeypatch.setattr(unit_stop, "_ASK_S", 0.05)
    return said


@pytest.fixture
def unmounted(monkeypatch: pytest.MonkeyPatch, make_instance: Callable[..., Instance]) -> list[str]:
    """The instances that were unmounted."""
    make_instance("guests")
    found: list[str] = []
    monkeypatch.setattr(unit_stop, "_unmount", found.append)
    return found


@pytest.mark.parametrize(
    ("jobs", "restarting"),
    [
        ("1234 guestmemfs@vm1.service restart running\n", True),
        ("1234 guestmemfs@vm1.service stop running\n", False),
        ("1234 guestmemfs@vm2.service restart running\n", False),
        ("No jobs running.\n", False),
        ("", False),
    ],
)
def test_only_the_units_own_restart_job_keeps_the_mount(jobs: str, restarting: bool) -> None:
    assert unit_stop.is_restarting("guestmemfs@vm1.service", jobs) is restarting


def test_a_daemon_that_ended_by_itself_leaves_the_mount_to_the_next(
    run: Callable[..., Any], unmounted: list[str]
) -> None:
    done = run("serve", "--stop", "guests")
    assert done.exit_code == 0 and "waits for the next one" in done.stderr
    assert unmounted == []


def test_after_the_daemons_end_only_a_stop_unmounts(answers: list[object], unmounted: list[str]) -> None:
    for jobs in (RESTART, "No jobs running.\n", STOP.replace("guests", "others"), 1):
        answers[:] = [jobs]
        unit_stop.clean_up("guests")
    assert unmounted == []
    answers[:] = [STOP]
    unit_stop.clean_up("guests")
    assert unmounted == ["guests"]


UNKNOWN = [1, FileNotFoundError("systemctl"), subprocess.TimeoutExpired("systemctl", 10)]


def test_a_stop_unmounts_and_a_restart_does_not(answers: list[object], unmounted: list[str]) -> None:
    answers[:] = [RESTART]
    unit_stop.stop_unit("guests", {"MAINPID": "7"})
    assert unmounted == []
    answers[:] = [STOP]
    unit_stop.stop_unit("guests", {"MAINPID": "7"})
    assert unmounted == ["guests"]


@pytest.mark.parametrize("failure", UNKNOWN, ids=str)
def test_regression_systemd_is_asked_again_when_it_does_not_answer(
    answers: list[object], unmounted: list[str], failure: object
) -> None:
    """It may be executing itself anew: a restart was taken for a stop, under running guests."""
    answers[:] = [failure, failure, RESTART]
    unit_stop.stop_unit("guests", {"MAINPID": "7"})
    assert unmounted == []


@pytest.mark.parametrize("failure", UNKNOWN, ids=str)
def test_the_mount_stays_when_systemd_never_answers(
    answers: list[object], unmounted: list[str], failure: object, capsys: pytest.CaptureFixture[str]
) -> None:
    answers[:] = [failure]
    unit_stop.stop_unit("guests", {"MAINPID": "7"})
    assert unmounted == []
    assert "the mount stays" in capsys.readouterr().err


def test_without_systemd_it_is_a_stop(
    answers: list[object], unmounted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unit_state, "SYSTEMD", "/nowhere/at/all")
    unit_stop.stop_unit("guests", {"MAINPID": "7"})
    assert unmounted == ["guests"]
