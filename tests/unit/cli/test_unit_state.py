"""A mount without daemon and holder is dead, unless systemd is about to serve it again."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from guestmemfs_fuse.cli import unit_state
from guestmemfs_fuse.cli.sight import Condition
from tests.unit.cli.fakes import DEAD


@pytest.fixture
def systemd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """systemd is PID 1, and systemctl answers `answer` (or raises it)."""
    asked: dict[str, Any] = {"answer": "inactive\n", "command": None}

    def run(command: list[str], **options: Any) -> object:
        asked["command"] = command
        if isinstance(asked["answer"], Exception):
            raise asked["answer"]
        return subprocess.CompletedProcess(command, 0, asked["answer"], "")

    monkeypatch.setattr(unit_state, "SYSTEMD", str(tmp_path))
    monkeypatch.setattr(unit_state.subprocess, "run", run)
    return asked


@pytest.mark.parametrize(
    ("state", "comes"), [("activating", True), ("active", True), ("failed", False), ("inactive", False)]
)
def test_the_units_state_decides(systemd: dict[str, Any], state: str, comes: bool) -> None:
    systemd["answer"] = f"{state}\n"
    assert unit_state.will_come_back("guests") is comes
    assert systemd["command"][-1] == "guestmemfs@guests.service"


def test_without_systemd_nobody_is_asked(systemd: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_state, "SYSTEMD", "/nowhere/at/all")
    assert not unit_state.will_come_back("guests")
    assert systemd["command"] is None


@pytest.mark.parametrize(
    "answer", [FileNotFoundError("systemctl"), subprocess.TimeoutExpired("systemctl", 5)]
)
def test_a_systemctl_that_fails_promises_nothing(systemd: dict[str, Any], answer: Exception) -> None:
    systemd["answer"] = answer
    assert not unit_state.will_come_back("guests")


def test_a_mount_that_a_unit_will_serve_again_is_not_dead() -> None:
    assert DEAD.condition is Condition.DEAD_MOUNT
    assert replace(DEAD, unit_waits=True).condition is Condition.RESTARTING
