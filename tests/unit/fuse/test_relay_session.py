"""The session of a relay: resumed, drained, ended, served by several workers, counted."""

from __future__ import annotations

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from guestmemfs_fuse.core.errors import DaemonError
from guestmemfs_fuse.fuse import abi
from guestmemfs_fuse.fuse.abi import InitFlag, Opcode
from guestmemfs_fuse.fuse.phase import Ended, Phase
from guestmemfs_fuse.fuse.wire import RequestHeader
from tests.unit.fuse.fake_session import Session, init_request, play

INLINE = pytest.mark.parametrize("inline", [True, False], ids=["inline", "pumped"])
RESENT = abi.UNIQUE_RESEND
FALLOCATE = abi.FALLOCATE_IN.pack(5, 0, 8192, 1)


# -- taking over --------------------------------------------------------------------------------------


@INLINE
def test_resume_replays_init_swallows_its_reply_and_asks_for_a_resend(inline: bool) -> None:
    async def scene(s: Session) -> None:
        await s.kernel.send(Opcode.GETATTR, unique=10 | RESENT)
        await wait_all_tasks_blocked()
        assert s.kernel.unread_by_relay()
        await s.relay.resume(init_request())
        assert await s.kernel.receive() == (7, 0, b"")
        assert await s.kernel.receive() == (0, 10 | RESENT, b"")
        assert [header.opcode for header in s.libfuse.seen] == [Opcode.INIT, Opcode.GETATTR]
        assert InitFlag.PASSTHROUGH in s.relay.init_flags
        statistics = s.relay.statistics()
        assert (statistics.resend_supported, statistics.swallowed, statistics.resent) == (True, 1, 1)
        assert "init" not in statistics.requests

    play(scene, inline=inline, fresh=False)


@INLINE
def test_drain_answers_what_was_read_and_leaves_the_rest_in_the_kernel(inline: bool) -> None:
    async def scene(s: Session) -> None:
        gate = trio.Event()

        async def slow(header: RequestHeader, body: bytes) -> bytes:
            await gate.wait()
            return b""

        s.libfuse.handlers[Opcode.MKDIR] = slow
        await s.kernel.send(Opcode.MKDIR, unique=10)
        await wait_all_tasks_blocked()
        left: list[int] = []

        async def drain() -> None:
            left.append(await s.relay.drain(timeout_s=10))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain)
            await wait_all_tasks_blocked()
            await s.kernel.send(Opcode.GETATTR, unique=12)
            await wait_all_tasks_blocked()
            assert not left
            gate.set()
        assert left == [0]
        assert await s.kernel.receive() == (0, 10, b"")
        assert s.kernel.unread_by_relay()
        s.relay.undrain()
        assert await s.kernel.receive() == (0, 12, b"")

    play(scene, inline=inline)


def test_drain_gives_up_on_what_stays_blocked_and_says_how_many() -> None:
    async def scene(s: Session) -> None:
        s.hooks.gate = trio.Event()
        await s.kernel.send(Opcode.FALLOCATE, FALLOCATE, unique=10)
        await wait_all_tasks_blocked()
        assert await s.relay.drain(timeout_s=1) == 1
        assert s.relay.statistics().oldest_in_flight_ns > 0
        s.hooks.gate.set()

    play(scene, clock=MockClock(autojump_threshold=0.05))


def test_draining_an_idle_session_takes_no_time() -> None:
    async def scene(s: Session) -> None:
        assert await s.relay.drain(timeout_s=1000) == 0
        assert await s.relay.drain(timeout_s=1000) == 0
        assert s.relay.phase is Phase.DRAINED

    play(scene)


# -- the end ------------------------------------------------------------------------------------------


@INLINE
def test_an_unmount_ends_the_session(inline: bool) -> None:
    async def scene(s: Session) -> None:
        s.kernel.unmount()
        while not s.ended:
            await trio.lowlevel.checkpoint()
        assert s.ended == [Ended.UNMOUNTED]
        with pytest.raises(trio.ClosedResourceError):
            await s.relay.wait_for_request()

    play(scene, inline=inline)


def test_an_end_before_the_start_is_an_error_for_whoever_starts() -> None:
    async def scene(s: Session) -> None:
        s.kernel.unmount()
        with pytest.raises(DaemonError, match="unmounted"):
            await s.relay.start_fresh()

    play(scene, fresh=False)


def test_ending_the_session_leaves_the_connection_alone() -> None:
    async def scene(s: Session) -> None:
        s.relay.end_session()
        while not s.ended:
            await trio.lowlevel.checkpoint()
        assert s.ended == [Ended.SESSION_CLOSED]
        await s.kernel.send(Opcode.GETATTR, unique=10)
        await wait_all_tasks_blocked()
        assert s.kernel.unread_by_relay()

    play(scene)


def test_a_hook_under_way_is_finished_before_run_returns() -> None:
    async def scene(s: Session) -> None:
        s.hooks.gate = trio.Event()
        await s.kernel.send(Opcode.FALLOCATE, FALLOCATE, unique=10)
        await wait_all_tasks_blocked()
        s.relay.end_session()
        await wait_all_tasks_blocked()
        assert not s.ended
        s.hooks.gate.set()
        assert await s.kernel.receive() == (0, 10, b"")

    play(scene)


@pytest.mark.parametrize("call", ["start_fresh", "resume"])
def test_a_session_starts_once(call: str) -> None:
    async def scene(s: Session) -> None:
        with pytest.raises(DaemonError):
            await (s.relay.start_fresh() if call == "start_fresh" else s.relay.resume(init_request()))

    play(scene)


# -- several workers ----------------------------------------------------------------------------------


def test_a_parked_worker_takes_over_when_the_watching_one_has_to_wait() -> None:
    """session.py calls hand_over() whenever a task gave up control; here the test does."""

    async def scene(s: Session) -> None:
        s.nursery.start_soon(s.libfuse.serve, s.nursery)
        await wait_all_tasks_blocked()
        s.relay.hand_over()
        await wait_all_tasks_blocked()
        s.libfuse.blocking[Opcode.MKDIR] = trio.Event()
        await s.kernel.send(Opcode.MKDIR, unique=10)
        await wait_all_tasks_blocked()
        await s.kernel.send(Opcode.GETATTR, unique=12)
        await wait_all_tasks_blocked()
        assert s.kernel.unread_by_relay(), "one worker waits, the other one is parked"
        s.relay.hand_over()
        assert (await s.kernel.receive()).unique == 12
        s.libfuse.blocking[Opcode.MKDIR].set()
        assert (await s.kernel.receive()).unique == 10

    play(scene)


# -- counting -----------------------------------------------------------------------------------------


def test_statistics_count_by_opcode_and_stay_as_they_were_read() -> None:
    async def scene(s: Session) -> None:
        before = s.relay.statistics()
        for unique in (10, 12, 14):
            await s.kernel.call(Opcode.GETATTR, b"12345678", unique=unique)
        await s.kernel.call(9999, unique=16)
        after = s.relay.statistics()
        assert after.requests == {"init": 1, "getattr": 3, "opcode_9999": 1}
        assert after.replies["getattr"] == 3
        assert after.latency_ns["getattr"] > 0
        assert after.bytes_from_kernel - before.bytes_from_kernel == 3 * 48 + 40
        assert after.bytes_to_kernel - before.bytes_to_kernel == 4 * 16
        assert before.requests == {"init": 1}

    play(scene)
