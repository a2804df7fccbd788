"""Daemons and clients that misbehave, over a real socket."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from guestmemfs_fuse.control.protocol import (
    ErrorReply,
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
    GuestmemfsError,
)
from tests.unit.control.rig import DEADLINE_S, Args, ask, connect, heard, serving

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


def test_more_clients_than_there_is_room_for_wait_their_turn(tmp_path: Path) -> None:
    async def body(server: ControlServer) -> None:
        crowd = [await connect(tmp_path) for _ in range(16)]
        while server.statistics()["clients"] < 16:
            await trio.testing.wait_all_tasks_blocked()
        async with await connect(tmp_path) as late:
            await late.send_all(encode(Hello()) + encode(Request("echo")))
            await trio.testing.wait_all_tasks_blocked()
            assert server.statistics()["requests"] == 0
            for stream in crowd:
                await stream.aclose()
            await late.send_eof()
            assert len(await heard(late)) == 2

    serving(tmp_path, body)


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
