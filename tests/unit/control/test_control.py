"""Server and client over a real socket: requests, events, errors."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import trio
import trio.testing

from guestmemfs_fuse.control.client import NotRunningError, call
from guestmemfs_fuse.control.protocol import (
    Hello,
    Request,
    encode,
)
from guestmemfs_fuse.control.server import (
    ControlServer,
    Progress,
    bind_listener,
)
from guestmemfs_fuse.core.errors import (
    DaemonError,
    ExitCode,
    InstanceBusyError,
    UnsupportedError,
    UsageError,
)
from tests.unit.control.rig import DEADLINE_S, Args, ask, connect, heard, serving

# -- the good case -------------------------------------------------------------------------------------


def test_a_request_is_answered(tmp_path: Path) -> None:
    async def body(server: ControlServer) -> None:
        assert await ask(tmp_path, "echo", {"path": "a\udcff", "n": 1 << 40}) == {
            "path": "a\udcff",
            "n": 1 << 40,
        }
        assert server.statistics()["requests"] == 1

    serving(tmp_path, body)


def test_events_come_in_order_before_the_reply(tmp_path: Path) -> None:
    async def body(server: ControlServer) -> None:
        events: list[Args] = []
        assert await ask(tmp_path, "count", on_event=events.append) == "counted"
        assert events == [{"done": 0}, {"done": 1}, {"done": 2}]
        assert await ask(tmp_path, "count") == "counted"

    serving(tmp_path, body)


def test_one_connection_may_ask_again(tmp_path: Path) -> None:
    async def body(server: ControlServer) -> None:
        async with await connect(tmp_path) as stream:
            await stream.send_all(encode(Hello()) + encode(Request("echo")) + encode(Request("echo")))
            await stream.send_eof()
            assert len(await heard(stream)) == 3

    serving(tmp_path, body)


def test_the_socket_is_private_and_may_have_a_long_path(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 120)
    deep.mkdir()

    async def body(server: ControlServer) -> None:
        mode = (deep / "control.sock").stat().st_mode
        assert stat.S_ISSOCK(mode)
        assert stat.S_IMODE(mode) == 0o600
        assert await ask(deep, "echo") == {}

    serving(deep, body)


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    bind_listener(str(tmp_path)).close()

    async def body(server: ControlServer) -> None:
        assert await ask(tmp_path, "echo") == {}

    serving(tmp_path, body)


# -- errors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["busy", "busy in a nursery"])
def test_an_error_on_purpose_is_raised_again_at_the_client(tmp_path: Path, op: str) -> None:
    async def body(server: ControlServer) -> None:
        with pytest.raises(InstanceBusyError, match="3 processes map it") as caught:
            await ask(tmp_path, op)
        assert caught.value.hint == "stop them"
        assert caught.value.exit_code == ExitCode.BUSY
        assert server.statistics()["internal_errors"] == 0

    serving(tmp_path, body)


def test_a_bug_is_logged_with_its_traceback_and_the_daemon_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def body(server: ControlServer) -> None:
        with pytest.raises(DaemonError, match=r"internal error in bug: KeyError\('lost'\)"):
            await ask(tmp_path, "bug")
        assert await ask(tmp_path, "echo") == {}
        assert server.statistics()["internal_errors"] == 1

    serving(tmp_path, body)
    assert "Traceback" in caplog.text


def test_a_result_that_cannot_be_packed_is_an_error_for_the_client(tmp_path: Path) -> None:
    async def body(server: ControlServer) -> None:
        with pytest.raises(DaemonError, match="cannot be packed"):
            await ask(tmp_path, "unpackable")

    serving(tmp_path, body)


def test_an_unknown_operation_is_named(tmp_path: Path) -> None:
    async def body(server: ControlServer) -> None:
        with pytest.raises(UsageError, match="knows no 'levitate'"):
            await ask(tmp_path, "levitate")

    serving(tmp_path, body)


def test_other_users_are_refused(tmp_path: Path) -> None:
    async def body(server: ControlServer) -> None:
        with pytest.raises(UnsupportedError, match="only root"):
            await ask(tmp_path, "echo")
        assert server.statistics()["refused"] == 1
        assert server.statistics()["requests"] == 0

    serving(tmp_path, body, allowed_uids=frozenset({os.geteuid() + 1}))


def test_nobody_listening_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(NotRunningError, match="not running"):
        call(str(tmp_path), "status")
    with pytest.raises(NotRunningError):
        call(str(tmp_path / "missing"), "status")
    bind_listener(str(tmp_path)).close()
    with pytest.raises(NotRunningError):
        call(str(tmp_path), "status", wait_s=0.05)


def test_the_client_waits_for_a_daemon_that_is_coming_up(tmp_path: Path) -> None:
    async def late(args: Args, progress: Progress) -> object:
        return "here"

    async def main() -> None:
        with trio.fail_after(DEADLINE_S):
            async with trio.open_nursery() as nursery:
                answers: list[object] = []

                async def client() -> None:
                    answers.append(await ask(tmp_path, "late", wait_s=DEADLINE_S))
                    nursery.cancel_scope.cancel()

                nursery.start_soon(client)
                await trio.testing.wait_all_tasks_blocked()
                with bind_listener(str(tmp_path)) as listener:
                    server = ControlServer(listener, {"late": late}, allowed_uids=frozenset({os.geteuid()}))
                    await server.serve()
        assert answers == ["here"]

    trio.run(main)
