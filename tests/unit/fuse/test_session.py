"""The seam under pyfuse3: its trio is trio, except where the session's descriptor is concerned."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pyfuse3
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from guestmemfs_fuse.fuse import session as seam
from guestmemfs_fuse.fuse.abi import Opcode
from guestmemfs_fuse.fuse.phase import Phase
from tests.unit.fuse.fake_session import Scene, Session, play


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    yield
    seam.detach()


def attached() -> Any:
    """The trio that pyfuse3 sees."""
    return vars(pyfuse3)["trio"]


def play_attached(scene: Scene, *, fresh: bool = True) -> None:
    async def attached_scene(s: Session) -> None:
        assert seam.attach(s.relay)
        await scene(s)

    play(attached_scene, fresh=fresh)


def test_pyfuse3_is_attached_once_and_detached() -> None:
    async def scene(s: Session) -> None:
        assert not seam.attach(s.relay), "the seam is taken"
        seam.detach()
        assert attached() is trio

    play_attached(scene)


def test_everything_else_is_trio() -> None:
    async def scene(s: Session) -> None:
        assert attached().ClosedResourceError is trio.ClosedResourceError
        assert attached().open_nursery is trio.open_nursery
        assert attached().lowlevel.current_task() is trio.lowlevel.current_task()

    play_attached(scene)


def test_waiting_for_the_session_is_waiting_for_a_request() -> None:
    async def scene(s: Session) -> None:
        async def worker() -> None:
            async with attached().Lock():
                await attached().lowlevel.wait_readable(s.relay.session_fd)
            got.append(os.read(s.relay.session_fd, 4096)[4])

        got: list[int] = []
        s.nursery.start_soon(worker)
        s.libfuse.blocking[Opcode.MKDIR] = trio.Event()
        await wait_all_tasks_blocked()
        await s.kernel.send(Opcode.MKDIR, unique=10)
        await wait_all_tasks_blocked()
        await s.kernel.send(Opcode.RMDIR, unique=12)
        await wait_all_tasks_blocked()
        assert got == [Opcode.RMDIR], "the instrument has handed over to the second worker"

    play_attached(scene)


def test_other_descriptors_are_waited_for_as_usual() -> None:
    async def scene(s: Session) -> None:
        reader, writer = os.pipe()
        os.write(writer, b"x")
        with trio.fail_after(5):
            await attached().lowlevel.wait_readable(reader)
        attached().lowlevel.notify_closing(reader)
        assert s.relay.phase is Phase.SERVING
        os.close(reader)
        os.close(writer)

    play_attached(scene)


def test_terminating_pyfuse3_ends_the_session() -> None:
    async def scene(s: Session) -> None:
        attached().lowlevel.notify_closing(s.relay.session_fd)
        with pytest.raises(trio.ClosedResourceError):
            await attached().lowlevel.wait_readable(s.relay.session_fd)

    play_attached(scene)
