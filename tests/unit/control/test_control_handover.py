"""A listener that goes to a successor, and descriptors that do not stay behind."""

from __future__ import annotations

import os
import select
import socket
import threading
from pathlib import Path

import pytest
import trio
import trio.testing

from guestmemfs_fuse.control import client
from guestmemfs_fuse.control.client import NotRunningError, call
from guestmemfs_fuse.control.protocol import (
    Hello,
    Reply,
    Request,
    encode,
)
from guestmemfs_fuse.control.server import (
    MAX_CLIENTS,
    ControlServer,
    Progress,
    adopt_listener,
    bind_listener,
)
from guestmemfs_fuse.core.errors import DaemonError, InstanceBusyError
from tests.unit.control.rig import DEADLINE_S, HANDLERS, Args, ask, connect, heard, serving


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


def test_regression_a_hand_over_waits_for_nobody_who_asks_for_nothing(tmp_path: Path) -> None:
    """Whoever had connected and said nothing, or half a request, kept it waiting for five seconds."""
    greeting, request = encode(Hello()), encode(Request("echo"))

    async def body(server: ControlServer) -> None:
        async with trio.open_nursery() as nursery:
            idle = [await connect(tmp_path) for _ in range(MAX_CLIENTS + 4)]  # the last wait for a place
            for stream, said in zip(
                idle, (b"", greeting, greeting + request, greeting + request[:-1]), strict=False
            ):
                await stream.send_all(said)
            while server.statistics()["clients"] < len(idle) or not server.statistics()["requests"]:
                await trio.testing.wait_all_tasks_blocked()
            await server.finish(10 * DEADLINE_S)
            assert server.statistics()["clients"] == 0
            for stream in idle:
                nursery.start_soon(stream.aclose)

    serving(tmp_path, body)


def test_what_the_daemon_asks_itself_is_answered_during_a_hand_over(tmp_path: Path) -> None:
    """The watchdog would call it unwell; it is about to say what it wants."""

    async def body(server: ControlServer) -> None:
        async with await connect(tmp_path) as watchdog, trio.open_nursery() as nursery:
            while not server.statistics()["clients"]:
                await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(server.finish, DEADLINE_S)
            await trio.testing.wait_all_tasks_blocked()
            await watchdog.send_all(encode(Hello()) + encode(Request("echo")))
            await watchdog.send_eof()
            assert await heard(watchdog) == [Hello(), Reply({})]

    serving(tmp_path, body, privileged_pid=os.getpid())


def test_a_request_that_came_before_the_hand_over_is_answered(tmp_path: Path) -> None:
    async def body(server: ControlServer) -> None:
        async with await connect(tmp_path) as client:
            while not server.statistics()["clients"]:
                await trio.testing.wait_all_tasks_blocked()
            # No task has run in between: the server has it in its socket.
            client.socket._sock.send(encode(Hello()) + encode(Request("echo")))  # type: ignore[attr-defined]
            await server.finish(10 * DEADLINE_S)
            assert await heard(client) == [Hello(), Reply({})]

    serving(tmp_path, body)


def test_after_a_hand_over_that_failed_clients_are_served_again(tmp_path: Path) -> None:
    async def forever(args: Args, progress: Progress) -> object:
        await trio.sleep_forever()

    async def body(server: ControlServer) -> None:
        async with await connect(tmp_path) as stuck:
            await stuck.send_all(encode(Hello()) + encode(Request("forever")))
            while not server.statistics()["requests"]:
                await trio.testing.wait_all_tasks_blocked()
            await server.finish(0.01)  # it does not wait for ever
            async with await connect(tmp_path) as late:
                await trio.testing.wait_all_tasks_blocked()
                assert server.statistics()["clients"] == 1
                server.accept_again()
                await trio.testing.wait_all_tasks_blocked()  # and may think about its request
                await late.send_all(encode(Hello()) + encode(Request("echo")))
                await late.send_eof()
                assert len(await heard(late)) == 2

    serving(tmp_path, body, handlers={**HANDLERS, "forever": forever})


def hang_up(listener: socket.socket, times: int, *, is_sent: bool, then_answer: bool) -> None:
    """What a daemon does to so many clients that it has not heard yet."""
    for _ in range(times):
        connection = listener.accept()[0]
        with connection:
            connection.sendall(encode(Hello()))
            if is_sent:
                assert select.select([connection], [], [], DEADLINE_S)[0]
    if then_answer:
        connection = listener.accept()[0]
        with connection:
            connection.recv(1 << 16)
            connection.sendall(encode(Hello()) + encode(Reply("the successor's")))


@pytest.mark.parametrize("is_sent", [True, False], ids=["unread", "unsent"])
@pytest.mark.parametrize(("times", "is_answered"), [(2, True), (3, False)])
def test_what_a_daemon_hung_up_on_unread_is_said_again_but_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_sent: bool, times: int, is_answered: bool
) -> None:
    really_connect = client._connect

    def connect_late(state_dir: str, wait_s: float) -> socket.socket:
        connection = really_connect(state_dir, wait_s)
        if not is_sent:  # the request comes when the daemon is gone, or is answered by the successor
            poll = select.poll()
            poll.register(connection, select.POLLHUP)
            poll.poll(50)
        return connection

    monkeypatch.setattr(client, "_connect", connect_late)
    with bind_listener(str(tmp_path)) as listener:
        listener.settimeout(DEADLINE_S)
        how = {"is_sent": is_sent, "then_answer": is_answered}
        server = threading.Thread(target=hang_up, args=(listener, times), kwargs=how)
        server.start()
        if is_answered:
            assert call(str(tmp_path), "echo") == "the successor's"
        else:
            with pytest.raises(DaemonError, match="went away during echo"):
                call(str(tmp_path), "echo")
        server.join()
