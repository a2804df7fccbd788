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
    monkeypatch.setattr(subprocess, "run", run)
    return asked


@pytest.mark.parametrize(
    ("state", "comes"), [("activating", True), ("active", True), ("failed", False), ("inactive", False)]
)
def test_the_units_state_decides(systemd: dict[str, Any], state: str, comes: bool) -> None:
    systemd["answer"] = f"{state}\n"
    assert unit_state.will_come_back("guests") is comes
    assert systemd["command"][-1] == "guestmemfs@guests.service"


def test_the_log_of_a_unit_is_in_the_journal(systemd: dict[str, Any]) -> None:
    systemd["answer"] = "serving /srv/guests\n"
    assert unit_state.log_of("guests", 500) == "serving /srv/guests\n"
    assert systemd["command"][0] == "journalctl"
    assert {"--lines=500", "--unit=guestmemfs@guests.service"} <= set(systemd["command"])


def test_without_systemd_nobody_is_asked(systemd: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unit_state, "SYSTEMD", "/nowhere/at/all")
    assert not unit_state.will_come_back("guests")
    assert unit_state.log_of("guests", 1) == ""
    assert systemd["command"] is None


@pytest.mark.parametrize(
    "answer", [FileNotFoundError("systemctl"), subprocess.TimeoutExpired("systemctl", 5)]
)
def test_a_systemctl_that_fails_promises_nothing(systemd: dict[str, Any], answer: Exception) -> None:
    systemd["answer"] = answer
    assert not unit_state.will_come_back("guests")


@pytest.mark.parametrize(
    ("answer", "kept"), [("3\n", True), ("0\n", False), ("", False), ("[not set]", False)]
)
def test_a_region_may_be_in_the_store_of_a_stopped_unit(
    systemd: dict[str, Any], answer: str, kept: bool
) -> None:
    systemd["answer"] = answer
    assert unit_state.keeps_memory("guests") is kept


def test_kept_memory_is_released_by_systemd_once_the_unit_is_inactive(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[list[str]] = []

    def run(command: list[str], **options: Any) -> object:
        asked.append(command[1:])
        cleaned = sum(words[0] == "clean" for words in asked)
        return subprocess.CompletedProcess(command, 0, "2\n" if cleaned < 2 else "0\n", "")

    monkeypatch.setattr(unit_state, "SYSTEMD", str(tmp_path))
    monkeypatch.setattr(unit_state, "_POLL_S", 0)
    monkeypatch.setattr(subprocess, "run", run)
    assert unit_state.release_memory("guests")
    assert asked[1] == ["clean", "--what=fdstore", "guestmemfs@guests.service"]


def test_memory_that_systemd_does_not_let_go_of_is_said(
    systemd: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unit_state, "_ASK_S", 0)
    systemd["answer"] = "1\n"
    assert not unit_state.release_memory("guests")


def test_a_mount_that_a_unit_will_serve_again_is_not_dead() -> None:
    assert DEAD.condition is Condition.DEAD_MOUNT
    assert replace(DEAD, unit_waits=True).condition is Condition.RESTARTING


@pytest.mark.parametrize(
    ("version", "preserve", "why"),
    [
        ("262.1-1\n", "yes\n", None),
        ("261\n", "yes\n", None),
        ("260.2-1\n", "yes\n", "systemd 260, 261 is the first"),
        ("252.39-1~deb12u1\n", "\n", "systemd 252"),
        ("", "", "unknown version"),
        ("262.1-1\n", "no\n", "guestmemfs@guests.service has no FileDescriptorStorePreserve=yes"),
    ],
)
def test_only_a_systemd_that_can_and_a_unit_that_may_carry_a_region(
    systemd: dict[str, Any], monkeypatch: pytest.MonkeyPatch, version: str, preserve: str, why: str | None
) -> None:
    def answer(*command: str) -> str:
        return version if "--property=Version" in command else preserve

    monkeypatch.setattr(unit_state, "_systemctl", answer)
    said = unit_state.why_not_carried("guests")
    assert said is None if why is None else said is not None and why in said
