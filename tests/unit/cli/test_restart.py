"""`restart`: asked for, forced, or pointless."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from guestmemfs_fuse.cli import daemons, restarting, sight
from guestmemfs_fuse.control import client
from guestmemfs_fuse.core.errors import DaemonError, ExitCode, UsageError
from guestmemfs_fuse.handover.last_words import LastWords
from guestmemfs_fuse.metadata.instance import Instance
from tests.unit.cli.fakes import DEAD, RESTARTING, SERVING, STOPPED, FakeDaemon

Run = Callable[..., Result]
See = Callable[..., None]


@pytest.fixture(autouse=True)
def instance(make_instance: Callable[..., Instance], monkeypatch: pytest.MonkeyPatch) -> Instance:
    """Mounted, at whatever stage its daemons are."""
    monkeypatch.setattr(sight, "mount_of", lambda instance: SERVING.mount)
    return make_instance()


def _pong(pid: int, generation: int, stall_ns: int | None = None) -> dict[str, Any]:
    return {"pid": pid, "generation": generation, "state": "serving", "stall_ns": stall_ns}


def _in_turn(*answers: Any) -> Callable[[dict[str, object]], Any]:
    remaining = list(answers)
    return lambda args: remaining.pop(0) if len(remaining) > 1 else remaining[0]


def test_the_successor_is_waited_for_and_reported(run: Run, see: See, daemon: FakeDaemon) -> None:
    see(SERVING)
    gone = DaemonError("the daemon is not running")
    daemon.answers["ping"] = _in_turn(_pong(41, 3), gone, _pong(41, 3), _pong(42, 4, stall_ns=87_300_000))
    daemon.answers["restart"] = {"successor_pid": 42}
    done = run("restart", "guests")
    assert (done.exit_code, done.stderr) == (0, "")
    old, new = "pid 41 (generation 3)", "pid 42 (generation 4)"
    assert done.stdout == f"instance guests: {old} replaced by {new}, calls waited at most 87.3 ms\n"


def test_regression_a_daemon_too_old_to_take_another_holder_is_replaced_by_one_that_does(
    run: Run, see: See, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hint of its refusal was to restart it."""
    see(SERVING)
    is_abandoned = {"is_abandoned": True}
    daemon.answers["ping"] = _in_turn(_pong(41, 3) | is_abandoned, _pong(42, 4) | is_abandoned)
    daemon.answers["restart"] = {"successor_pid": 42}
    given: list[int] = []

    def give_holder(instance: Instance, daemon_pid: int) -> int:
        given.append(daemon_pid)
        if daemon_pid == 41:
            raise UsageError(
                "the daemon knows no 'entrust'", hint="`guestmemfs restart` brings it up to date"
            )
        return 50

    monkeypatch.setattr(restarting, "give_holder", give_holder)
    done = run("restart", "guests")
    assert (done.exit_code, given) == (0, [41, 42])
    assert "replaced by pid 42" in done.stdout


def test_a_successor_that_cannot_start_leaves_the_old_daemon(run: Run, see: See, daemon: FakeDaemon) -> None:
    see(SERVING)
    daemon.serves()
    daemon.answers["restart"] = DaemonError("the successor died: no such module", hint="still serving")
    done = run("restart", "guests")
    assert done.exit_code == ExitCode.DAEMON
    assert done.stderr == "error: the successor died: no such module\nhint: still serving\n"


def test_no_successor_within_the_deadline_is_an_error(
    run: Run, see: See, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    see(SERVING)
    daemon.serves()
    daemon.answers["restart"] = {"successor_pid": 42}
    monkeypatch.setattr(restarting, "REPLACED_WITHIN_S", 0.0)
    done = run("restart", "guests")
    assert done.exit_code == ExitCode.DAEMON
    assert "no new daemon serves instance guests" in done.stderr


@pytest.mark.parametrize(
    "answer", [client.GoneError("the daemon went away"), {"successor_pid": 42}], ids=repr
)
def test_nobody_waits_for_a_daemon_whose_mount_is_gone(
    run: Run, see: See, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, answer: object
) -> None:
    see(SERVING)
    daemon.serves()

    def restart(args: dict[str, object]) -> object:
        monkeypatch.setattr(sight, "mount_of", lambda instance: None)
        daemon.answers["ping"] = client.NotRunningError("the daemon is not running")
        return answer

    daemon.answers["restart"] = restart
    done = run("restart", "guests")
    assert done.exit_code == ExitCode.DAEMON
    said = "error: instance guests was unmounted meanwhile\nhint: `guestmemfs status guests` shows it\n"
    assert done.stderr == said


def test_a_daemon_that_dies_under_a_mount_that_stands_is_said_to(
    run: Run, see: See, daemon: FakeDaemon
) -> None:
    see(SERVING)
    daemon.answers["resize"] = client.GoneError("the daemon went away before it answered")
    done = run("resize", "guests", "--size", "128M")
    assert done.stderr == "error: the daemon went away before it answered\n"


def test_a_daemon_that_does_not_answer_is_killed(
    run: Run, see: See, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    see(SERVING)
    silence = DaemonError("the daemon did not answer ping within 5 s")
    daemon.answers["ping"] = _in_turn(silence, _pong(42, 4))
    killed = []
    monkeypatch.setattr(daemons, "pid_by_lock", lambda path: 41)
    monkeypatch.setattr(restarting, "_is_supervised", lambda pid: True)
    monkeypatch.setattr(daemons, "send", lambda pid, number: killed.append((pid, number)))
    done = run("restart", "guests")
    assert done.exit_code == 0
    assert killed == [(41, signal.SIGKILL)]
    assert done.stderr == "note: the daemon (pid 41) does not answer: killing it, another takes over\n"
    assert done.stdout == "instance guests: pid 41 replaced by pid 42 (generation 4)\n"


def test_a_daemon_that_nobody_would_start_again_is_not_killed(
    run: Run, see: See, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    see(replace(SERVING, holder_pid=None))
    daemon.answers["ping"] = DaemonError("the daemon did not answer ping within 5 s")
    monkeypatch.setattr(daemons, "pid_by_lock", lambda path: os.getpid())
    monkeypatch.setattr(restarting, "_is_supervised", lambda pid: False)
    monkeypatch.setattr(daemons, "send", lambda pid, number: pytest.fail("killed"))
    assert run("restart", "guests").exit_code == ExitCode.DAEMON


@pytest.mark.parametrize(
    ("environment", "supervised"),
    [
        ({"NOTIFY_SOCKET": "heard"}, True),
        ({"NOTIFY_SOCKET": "left behind"}, False),
        ({"NOTIFY": "NOTIFY_SOCKET=heard"}, False),
    ],
)
def test_supervision_is_read_from_the_environment(
    environment: dict[str, str], supervised: bool, tmp_path: Path
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "heard"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as killed:
            killed.bind(str(tmp_path / "left behind"))
        env = {name: f"{tmp_path}/{value}" for name, value in environment.items()}
        child = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE, env=env)
        environ = Path(f"/proc/{child.pid}/environ")
        try:
            assert sight.wait_until(lambda: environ.read_bytes() != b"", 10), "exec has not finished"
            assert restarting._is_supervised(child.pid) is supervised
        finally:
            child.communicate()


def test_a_daemon_that_is_coming_back_is_waited_for(run: Run, see: See, daemon: FakeDaemon) -> None:
    see(RESTARTING)
    daemon.answers["ping"] = _in_turn(DaemonError("not yet"), _pong(42, 4))
    done = run("restart", "guests")
    assert done.exit_code == 0
    assert "holder is starting another" in done.stderr
    assert "replaced by pid 42" in done.stdout


@pytest.mark.parametrize(
    ("seen", "code"),
    [
        (STOPPED, ExitCode.FAILED),
        (DEAD, ExitCode.DAEMON),
        (replace(RESTARTING, last_words=LastWords("given up")), ExitCode.DAEMON),
    ],
)
def test_where_nothing_serves_the_hint_says_how_it_comes_back(
    seen: Any, code: ExitCode, run: Run, see: See, daemon: FakeDaemon
) -> None:
    see(seen)
    done = run("restart", "guests")
    assert done.exit_code == code
    assert "`guestmemfs mount /mnt/guests`" in done.stderr
    assert daemon.asked == []
