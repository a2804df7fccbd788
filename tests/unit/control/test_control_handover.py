"""A listener that goes to a successor, and descriptors that do not stay behind."""

from __future__ import annotations

import os
import socket
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
    adopt_listener,
    bind_listener,
)
from guestmemfs_fuse.core.errors import (
    InstanceBusyError,
)
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
