"""Server and client over a real socket: requests, events, errors, and clients that misbehave."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest
import trio
import trio.testing

from guestmemfs_fuse.control.client import NotRunningError, call
from guestmemfs_fuse.control.protocol import (
    MAX_REPLY_BYTES,
    Decoder,
    ErrorReply,
    Hello,
    Message,
    Request,
    encode,
)
from guestmemfs_fuse.control.server import (
    ControlServer,
    Handler,
    Progress,
    adopt_listener,
    bind_listener,
)
from guestmemfs_fuse.core.errors import (
    DaemonError,
    ExitCode,
    GuestmemfsError,
    InstanceBusyError,
    UnsupportedError,
    UsageError,
)

Args = Mapping[str, object]
DEADLINE_S = 20.0


async def _echo(args: Args, progress: Progress) -> object:
    return dict(args)


async def _count(args: Args, progress: Progress) -> object:
    for done in range(3):
        await progress({"done": done})
    return "counted"


async def _busy(args: Args, progress: Progress) -> object:
    raise InstanceBusyError("3 processes map it", hint="stop them")


async def _bug(args: Args, progress: Progress) -> object:
    raise KeyError("lost")


async def _busy_in_a_nursery(args: Args, progress: Progress) -> object:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_busy, args, progress)
    return None


async def _unpackable(args: Args, progress: Progress) -> object:
    return object()


HANDLERS: dict[str, Handler] = {
    "echo": _echo,
    "count": _count,
    "busy": _busy,
    "bug": _bug,
    "busy in a nursery": _busy_in_a_nursery,
    "unpackable": _unpackable,
}


def serving(
    state_dir: Path,
    body: Callable[[ControlServer], Awaitable[None]],
    *,
    handlers: Mapping[str, Handler] = HANDLERS,
    allowed_uids: frozenset[int] | None = None,
    idle_timeout_s: float = DEADLINE_S,
) -> None:
    """Run body against a server, everything under one deadline."""

    async def main() -> None:
        with bind_listener(str(state_dir)) as listener:
            uids = frozenset({os.geteuid()}) if allowed_uids is None else allowed_uids
            server = ControlServer(listener, handlers, allowed_uids=uids, idle_timeout_s=idle_timeout_s)
            with trio.fail_after(DEADLINE_S):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(server.serve)
                    await body(server)
                    nursery.cancel_scope.cancel()

    trio.run(main)


async def ask(state_dir: Path, op: str, args: Args | None = None, **more: object) -> object:
    return await trio.to_thread.run_sync(lambda: call(str(state_dir), op, args, **more))  # type: ignore[arg-type]


async def connect(state_dir: Path) -> trio.SocketStream:
    return await trio.open_unix_socket(str(state_dir / "control.sock"))


async def heard(stream: trio.SocketStream) -> list[Message]:
    """Everything until the server hangs up."""
    decoder = Decoder(MAX_REPLY_BYTES)
    messages: list[Message] = []
    while data := await stream.receive_some():
        messages += decoder.feed(data)
    return messages


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


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    async def body(server: ControlServer) -> None:
        assert await ask(tmp_path, "count") == "counted"
        with pytest.raises(InstanceBusyError):
            await ask(tmp_path, "busy")

    serving(tmp_path, body)
    before = len(os.listdir("/proc/self/fd"))
    serving(tmp_path, body)
    with pytest.raises(NotRunningError):
        call(str(tmp_path), "echo")
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_listener_can_be_handed_to_a_successor(tmp_path: Path) -> None:
    first = bind_listener(str(tmp_path))
    second = adopt_listener(os.dup(first.fileno()))
    first.close()

    async def main() -> None:
        with trio.fail_after(DEADLINE_S):
            async with trio.open_nursery() as nursery:
                server = ControlServer(second, HANDLERS, allowed_uids=frozenset({os.geteuid()}))
                nursery.start_soon(server.serve)
                assert await ask(tmp_path, "echo") == {}
                nursery.cancel_scope.cancel()

    with second:
        assert isinstance(second, socket.socket)
        trio.run(main)


def test_a_hand_over_answers_who_is_connected_and_leaves_the_others_to_the_successor(tmp_path: Path) -> None:
    begun, go_on = trio.Event(), trio.Event()
    answers: dict[str, object] = {}

    async def slow(args: Args, progress: Progress) -> object:
        begun.set()
        await go_on.wait()
        return "ours"

    async def successors(args: Args, progress: Progress) -> object:
        return "the successor's"

    async def keep(name: str) -> None:
        answers[name] = await ask(tmp_path, "slow")

    async def body(server: ControlServer) -> None:
        uids = frozenset({os.geteuid()})
        with adopt_listener(os.dup(server._listener.fileno())) as listener:
            successor = ControlServer(listener, {"slow": successors}, allowed_uids=uids)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(keep, "before")
                await begun.wait()
                nursery.start_soon(server.finish, DEADLINE_S)
                await trio.testing.wait_all_tasks_blocked()
                nursery.start_soon(keep, "meanwhile")
                nursery.start_soon(successor.serve)
                while "meanwhile" not in answers:
                    await trio.sleep(0.001)
                go_on.set()
                while "before" not in answers:
                    await trio.sleep(0.001)
                nursery.cancel_scope.cancel()

    serving(tmp_path, body, handlers={"slow": slow})
    assert answers == {"before": "ours", "meanwhile": "the successor's"}


def test_after_a_hand_over_that_failed_clients_are_served_again(tmp_path: Path) -> None:
    async def body(server: ControlServer) -> None:
        async with await connect(tmp_path) as idle:
            while not server.statistics()["clients"]:
                await trio.testing.wait_all_tasks_blocked()
            await server.finish(0.01)  # it does not wait for ever
            async with await connect(tmp_path) as late:
                await late.send_all(encode(Hello()) + encode(Request("echo")))
                await trio.testing.wait_all_tasks_blocked()
                assert server.statistics()["clients"] == 1
                server.accept_again()
                await late.send_eof()
                assert len(await heard(late)) == 2
            await idle.aclose()

    serving(tmp_path, body)
