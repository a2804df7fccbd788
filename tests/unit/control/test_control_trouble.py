"""Daemons and clients that misbehave, over a real socket."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from guestmemfs_fuse.control import health, places
from guestmemfs_fuse.control.protocol import (
    ErrorReply,
    Hello,
    Request,
    encode,
)
from guestmemfs_fuse.control.server import (
    MAX_CLIENTS,
    MAX_WAITING,
    ControlServer,
    Progress,
    bind_listener,
)
from guestmemfs_fuse.core.errors import (
    DaemonError,
    ExitCode,
    GuestmemfsError,
    InstanceBusyError,
)
from tests.unit.control.rig import DEADLINE_S, HANDLERS, Args, ask, connect, heard, serving

# -- a daemon that misbehaves ----------------------------------------------------------------------------


def fake_daemon(state_dir: Path, answer: bytes, op_error: type[GuestmemfsError], match: str) -> None:
    """A client that asks is given these bytes and hung up on."""

    async def main() -> None:
        with trio.fail_after(DEADLINE_S), bind_listener(str(state_dir)) as listener:
            async with trio.open_nursery() as nursery:

                async def serve() -> None:
                    connection, _ = await trio.socket.from_stdlib_socket(listener).accept()
                    async with trio.SocketStream(connection) as stream:
                        await stream.receive_some()
                        await stream.send_all(answer)

                nursery.start_soon(serve)
                with pytest.raises(op_error, match=match):
                    await ask(state_dir, "status")

    trio.run(main)


@pytest.mark.parametrize(
    ("answer", "match"),
    [
        (b"", "went away before it answered"),
        (encode(Hello()), "went away before it answered"),
        (encode(Hello(2)), "speaks version 2 of the control protocol, not 1"),
        (encode(Request("x")), "did not introduce itself"),
        (encode(Hello()) + encode(Request("x")), "answered with a request"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "over the limit"),
    ],
)
def test_a_daemon_that_talks_nonsense_is_a_daemon_error(tmp_path: Path, answer: bytes, match: str) -> None:
    fake_daemon(tmp_path, answer, DaemonError, match)


def test_an_error_class_of_a_newer_daemon_keeps_its_words(tmp_path: Path) -> None:
    reply = encode(Hello()) + encode(ErrorReply("TidalWaveError", "too wet", None, int(ExitCode.BUSY)))
    fake_daemon(tmp_path, reply, DaemonError, "too wet")


def test_a_silent_daemon_times_out(tmp_path: Path) -> None:
    async def silent(args: Args, progress: Progress) -> object:
        await trio.sleep_forever()

    async def body(server: ControlServer) -> None:
        with pytest.raises(DaemonError, match=r"did not answer silent within 0\.05 s"):
            await ask(tmp_path, "silent", timeout_s=0.05)

    serving(tmp_path, body, handlers={"silent": silent})


# -- clients that misbehave ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "match"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "over the limit"),
        (encode(Request("echo")), "say hello first"),
        (encode(Hello(7)), "version 1 of the control protocol, not 7"),
        (encode(Hello()) + encode(Hello()), "expected a request"),
        (encode(Hello()) + b"\x00\x00\x00\x01\xc1", "not a message"),
    ],
)
def test_a_client_that_talks_nonsense_is_told_and_hung_up_on(tmp_path: Path, sent: bytes, match: str) -> None:
    async def body(server: ControlServer) -> None:
        async with await connect(tmp_path) as stream:
            await stream.send_all(sent)
            last = (await heard(stream))[-1]
            assert isinstance(last, ErrorReply)
            assert match in last.message
        assert await ask(tmp_path, "echo") == {}

    serving(tmp_path, body)


def test_an_idle_client_is_hung_up_on(tmp_path: Path) -> None:
    async def body(server: ControlServer) -> None:
        async with await connect(tmp_path) as stream:
            assert await heard(stream) == [Hello()]

    serving(tmp_path, body, idle_timeout_s=0.02)


LONG = encode(Hello()) + encode(Request("long"))


async def _forever(args: Args, progress: Progress) -> object:
    await trio.sleep_forever()


_CROWD = """
import socket, sys
crowd = [socket.socket(socket.AF_UNIX) for _ in range(int(sys.argv[2]))]
for each in crowd:
    each.connect(sys.argv[1])
    each.sendall(bytes.fromhex(sys.argv[3]))
print(flush=True)
sys.stdin.read()
"""


@asynccontextmanager
async def crowd_of(count: int, tmp_path: Path, sent: bytes = b"") -> AsyncIterator[None]:
    """So many clients, of another process, which have sent this and no more."""
    command = [sys.executable, "-SEc", _CROWD, str(tmp_path / "control.sock"), str(count), sent.hex()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert await trio.to_thread.run_sync(process.stdout.readline) == b"\n"
            yield
        finally:
            process.kill()


async def requested(server: ControlServer, count: int) -> None:
    """Return once the server has begun so many requests."""
    while server.statistics()["requests"] < count:
        await trio.testing.wait_all_tasks_blocked()


def test_more_requests_than_there_is_room_for_wait_their_turn(tmp_path: Path) -> None:
    go_on = trio.Event()

    async def until_told(args: Args, progress: Progress) -> object:
        await go_on.wait()
        return None

    async def body(server: ControlServer) -> None:
        async with crowd_of(MAX_CLIENTS, tmp_path, LONG):
            await requested(server, MAX_CLIENTS)
            async with await connect(tmp_path) as late:
                await late.send_all(encode(Hello()) + encode(Request("echo")))
                await trio.testing.wait_all_tasks_blocked()
                assert server.statistics()["requests"] == MAX_CLIENTS
                go_on.set()
                await late.send_eof()
                assert len(await heard(late)) == 2

    serving(tmp_path, body, handlers={"long": until_told, "echo": HANDLERS["echo"]})


def test_regression_clients_that_hang_hold_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sixteen kept every command waiting until their idle time was over."""
    monkeypatch.setattr(places, "HURRY_S", 0.05)

    async def body(server: ControlServer) -> None:
        async with crowd_of(2 * MAX_CLIENTS, tmp_path):
            assert await ask(tmp_path, "echo", timeout_s=DEADLINE_S) == {}

    serving(tmp_path, body, idle_timeout_s=10 * DEADLINE_S)


def test_regression_the_watchdogs_question_needs_no_place(tmp_path: Path) -> None:
    """Sixteen requests that took long kept it waiting too, and systemd killed a daemon that was well."""

    async def body(server: ControlServer) -> None:
        async with crowd_of(MAX_CLIENTS + 4, tmp_path, LONG):
            await requested(server, MAX_CLIENTS)
            assert await health.answers(str(tmp_path / "control.sock"), DEADLINE_S / 2) is None

    handlers = {"long": _forever, "ping": HANDLERS["echo"]}
    serving(tmp_path, body, handlers=handlers, privileged_pid=os.getpid())


def test_who_would_wait_behind_a_crowd_is_sent_away(tmp_path: Path) -> None:
    async def body(server: ControlServer) -> None:
        async with crowd_of(MAX_CLIENTS + MAX_WAITING, tmp_path, LONG):
            while server.statistics()["clients"] < MAX_CLIENTS + MAX_WAITING:
                await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(InstanceBusyError, match="64 commands wait for the daemon already"):
                await ask(tmp_path, "ping")

    serving(tmp_path, body, handlers={"long": _forever})


def test_a_request_runs_to_its_end_though_its_client_hung_up(tmp_path: Path) -> None:
    started, go_on, done = trio.Event(), trio.Event(), trio.Event()

    async def long(args: Args, progress: Progress) -> object:
        started.set()
        await go_on.wait()
        for _ in range(3):
            await progress({"still": "here"})
        done.set()
        return None

    async def body(server: ControlServer) -> None:
        async with await connect(tmp_path) as stream:
            await stream.send_all(encode(Hello()) + encode(Request("long")))
            await started.wait()
        go_on.set()
        await done.wait()

    serving(tmp_path, body, handlers={"long": long})


def test_a_client_that_does_not_read_its_events_is_hung_up_on_and_the_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("guestmemfs_fuse.control.server.EVENT_TIMEOUT_S", 0.02)
    done = trio.Event()

    async def chatty(args: Args, progress: Progress) -> object:
        for _ in range(8):
            await progress({"filler": "x" * (1 << 20)})
        done.set()
        return None

    async def body(server: ControlServer) -> None:
        async with await connect(tmp_path) as stream:
            await stream.send_all(encode(Hello()) + encode(Request("chatty")))
            await done.wait()

    serving(tmp_path, body, handlers={"chatty": chatty})
