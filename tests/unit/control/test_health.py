"""What keeps the watchdog quiet, and what does not."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

import pytest
import trio
import trio.testing

from guestmemfs_fuse.control import health
from guestmemfs_fuse.control.server import ControlServer, bind_listener
from tests.unit.control.rig import DEADLINE_S


def test_an_old_request_is_unhealthy_unless_work_that_takes_long_is_under_way() -> None:
    assert health.unhealthy(9_000_000_000, 0, 10.0) is None
    assert "waiting for its answer for 11 s" in str(health.unhealthy(11_000_000_000, 0, 10.0))
    assert health.unhealthy(11_000_000_000, 1, 10.0) is None


def fed(problems: list[str | None], interval_s: float, run_s: float) -> list[float]:
    """When the watchdog was told, in seconds of a clock that costs no time."""
    told: list[float] = []

    async def examine(timeout_s: float) -> str | None:
        return problems.pop(0) if problems else None

    def tell() -> bool:
        told.append(trio.current_time())
        return True

    async def run() -> float:
        began = trio.current_time()
        with trio.move_on_after(run_s):
            await health.feed(interval_s, examine, tell)
        return began

    began = trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0))
    return [round(each - began, 3) for each in told]


def test_the_watchdog_is_told_several_times_within_its_interval() -> None:
    assert fed([], 9.0, 8.0) == [0.0, 3.0, 6.0]


def test_it_is_not_told_while_something_is_wrong(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        assert fed([None, "stuck", "stuck"], 9.0, 11.0) == [0.0, 9.0]
    assert caplog.messages == ["not well: stuck", "not well: stuck"]


async def examined(directory: Path, *, timeout_s: float, serving: bool, ping_s: float = 0.0) -> str | None:
    async def ping(args: object, progress: object) -> object:
        await trio.sleep(ping_s)
        return {}

    with bind_listener(str(directory)) as listener:
        server = ControlServer(listener, {"ping": ping}, allowed_uids=frozenset({os.geteuid()}))
        async with trio.open_nursery() as nursery:
            if serving:
                nursery.start_soon(server.serve)
            found = await health.answers(str(directory / "control.sock"), timeout_s)
            nursery.cancel_scope.cancel()
    return found


def test_a_daemon_that_answers_is_well(tmp_path: Path) -> None:
    assert trio.run(lambda: examined(tmp_path, timeout_s=DEADLINE_S, serving=True)) is None


def test_a_daemon_that_does_not_accept_or_not_answer_is_not(tmp_path: Path) -> None:
    assert "did not answer" in str(trio.run(lambda: examined(tmp_path, timeout_s=0.1, serving=False)))
    silent = trio.run(lambda: examined(tmp_path, timeout_s=0.1, serving=True, ping_s=60))
    assert "did not answer" in str(silent)


def test_a_socket_that_is_gone_is_said(tmp_path: Path) -> None:
    found = trio.run(health.answers, str(tmp_path / "control.sock"), DEADLINE_S)
    assert "does not work" in str(found)


def test_an_answer_that_is_an_error_is_said(tmp_path: Path) -> None:
    async def run() -> str | None:
        with bind_listener(str(tmp_path)) as listener:
            server = ControlServer(listener, {}, allowed_uids=frozenset({os.geteuid()}))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.serve)
                found = await health.answers(str(tmp_path / "control.sock"), DEADLINE_S)
                nursery.cancel_scope.cancel()
        return found

    assert "ping was answered with" in str(trio.run(run))


def test_a_long_path_is_reachable(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 120)
    directory.mkdir()
    assert len(str(directory)) > 107 and socket.AF_UNIX
    assert trio.run(lambda: examined(directory, timeout_s=DEADLINE_S, serving=True)) is None
