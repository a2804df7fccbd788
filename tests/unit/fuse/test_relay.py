"""Between a fake kernel and a fake libfuse: what passes, what is patched, what the relay answers itself."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Awaitable, Callable

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from guestmemfs_fuse.core.errors import BusyFsError
from guestmemfs_fuse.fuse import abi
from guestmemfs_fuse.fuse.abi import InitFlag, Opcode, OpenFlag
from guestmemfs_fuse.fuse.hooks import Request
from guestmemfs_fuse.fuse.phase import Phase
from guestmemfs_fuse.fuse.wire import RequestHeader
from tests.unit.fuse.fake_session import PID, Session, init_request, play, session

INLINE = pytest.mark.parametrize("inline", [True, False], ids=["inline", "pumped"])
UNCACHED = OpenFlag.DIRECT_IO | OpenFlag.NOFLUSH
RESENT = abi.UNIQUE_RESEND
FALLOCATE = abi.FALLOCATE_IN.pack(5, 0, 8192, 1)


def opened(fh: int = 9, flags: int = OpenFlag.KEEP_CACHE) -> bytes:
    return abi.OPEN_OUT.pack(fh, flags, 0)


def returning(body: bytes) -> Callable[[RequestHeader, bytes], Awaitable[bytes]]:
    async def handler(header: RequestHeader, request_body: bytes) -> bytes:
        return body

    return handler


# -- the start ----------------------------------------------------------------------------------------


@INLINE
def test_a_fresh_start_answers_init_with_passthrough_and_keeps_the_request(inline: bool) -> None:
    async def scene(s: Session) -> None:
        assert await s.fresh() == init_request()
        assert (s.init_reply.error, s.init_reply.unique, len(s.init_reply.body)) == (0, 2, 64)
        assert s.relay.phase is Phase.SERVING
        assert InitFlag.PASSTHROUGH in s.relay.init_flags
        assert "passthrough" in s.relay.statistics().init_flags
        shown = s.libfuse.seen[0]
        assert shown.opcode == Opcode.INIT and shown.length == len(init_request())

    play(scene, inline=inline, fresh=False)


def test_the_init_request_can_be_stored_before_the_kernel_is_answered() -> None:
    stored: list[tuple[bytes, bool]] = []

    async def main() -> None:
        async with session(on_init=lambda init: stored.append((init, s.kernel.has_something()))) as s:
            await s.fresh()

    trio.run(main)
    assert stored == [(init_request(), False)]


def test_nothing_is_read_before_the_session_starts() -> None:
    async def scene(s: Session) -> None:
        await s.kernel.send_raw(init_request())
        await wait_all_tasks_blocked()
        assert s.kernel.unread_by_relay()

    play(scene, fresh=False)


# -- what passes --------------------------------------------------------------------------------------


@INLINE
def test_a_request_reaches_libfuse_with_a_token_and_its_reply_the_kernel(inline: bool) -> None:
    async def scene(s: Session) -> None:
        async def getattr_(header: RequestHeader, body: bytes) -> bytes:
            assert body == b"arguments"
            assert s.relay.find_request(header.pid) == Request(10, False, 7, 1000, 100, PID)
            assert s.relay.statistics().in_flight == 1
            return b"attributes"

        s.libfuse.handlers[Opcode.GETATTR] = getattr_
        got = await s.kernel.call(Opcode.GETATTR, b"arguments", unique=10)
        assert got == (0, 10, b"attributes")
        token = s.libfuse.seen[-1].pid
        assert s.relay.find_request(token) is None
        assert s.relay.statistics().in_flight == 0

    play(scene, inline=inline)


@INLINE
def test_many_requests_at_once_are_all_answered(inline: bool) -> None:
    async def scene(s: Session) -> None:
        async def slow(header: RequestHeader, body: bytes) -> bytes:
            for _ in range(header.unique % 5):
                await trio.lowlevel.checkpoint()
            return body

        s.libfuse.handlers[Opcode.GETATTR] = slow
        uniques = list(range(10, 210, 2))
        for unique in uniques:
            await s.kernel.send(Opcode.GETATTR, b"%d" % unique, unique=unique)
        got = [await s.kernel.receive() for _ in uniques]
        assert sorted((g.unique, g.body) for g in got) == [(u, b"%d" % u) for u in uniques]
        assert len({header.pid for header in s.libfuse.seen}) == 1 + len(uniques)

    play(scene, inline=inline)


def test_a_resent_request_is_marked_and_answered_under_the_unique_as_read() -> None:
    async def scene(s: Session) -> None:
        async def handler(header: RequestHeader, body: bytes) -> bytes:
            request = s.relay.find_request(header.pid)
            assert request is not None
            return b"%d %d" % (request.unique, request.resent)

        s.libfuse.handlers[Opcode.MKDIR] = handler
        assert await s.kernel.call(Opcode.MKDIR, unique=10 | RESENT) == (0, 10 | RESENT, b"10 1")
        assert s.relay.statistics().resent == 1

    play(scene)


def test_an_error_reply_passes_unpatched() -> None:
    async def scene(s: Session) -> None:
        real = s.libfuse._reply
        s.libfuse._reply = lambda header, body, error=0: real(header, body, -errno.ENOENT)  # type: ignore[method-assign]
        assert await s.kernel.call(Opcode.OPEN, unique=10) == (-errno.ENOENT, 10, b"")

    play(scene)


def test_a_notification_of_libfuses_own_passes() -> None:
    async def scene(s: Session) -> None:
        s.libfuse.write(abi.OUT_HEADER.pack(abi.OUT_HEADER.size + 4, 2, 0) + b"note")
        assert await s.kernel.receive() == (2, 0, b"note")

    play(scene)


def test_malformed_messages_are_dropped_and_the_session_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async def scene(s: Session) -> None:
        await s.kernel.send_raw(b"short")
        s.libfuse.write(b"short too")
        s.libfuse.write(abi.OUT_HEADER.pack(abi.OUT_HEADER.size, 0, 12345))
        assert await s.kernel.call(Opcode.GETATTR, unique=10) == (0, 10, b"")

    play(scene)
    assert len(caplog.records) == 3


# -- what is patched ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("backing", "flags", "backing_id"),
    [
        ({7: 3}, UNCACHED | OpenFlag.PASSTHROUGH, 3),
        ({}, UNCACHED, 0),
    ],
    ids=["passthrough", "no backing"],
)
def test_an_open_carries_the_inodes_backing_id(backing: dict[int, int], flags: int, backing_id: int) -> None:
    async def scene(s: Session) -> None:
        s.hooks.backing = backing
        s.libfuse.handlers[Opcode.OPEN] = returning(opened())
        got = await s.kernel.call(Opcode.OPEN, unique=10, nodeid=7)
        assert abi.OPEN_OUT.unpack(got.body) == (9, flags, backing_id)

    play(scene)


def test_a_create_carries_the_backing_id_of_the_new_inode() -> None:
    async def scene(s: Session) -> None:
        s.hooks.backing = {31: 4}
        entry = abi.ENTRY_OUT_HEAD.pack(31, 0, 0, 0, 0, 0) + bytes(abi.ATTR.size)
        s.libfuse.handlers[Opcode.CREATE] = returning(entry + opened())
        got = await s.kernel.call(Opcode.CREATE, unique=10, nodeid=1)
        assert got.body.startswith(entry)
        assert abi.OPEN_OUT.unpack(got.body[128:])[2] == 4

    play(scene)


@pytest.mark.parametrize(
    ("error", "number"), [(BusyFsError(), errno.EBUSY), (RuntimeError("bug"), errno.EIO)]
)
def test_an_open_without_its_backing_id_fails(error: Exception, number: int) -> None:
    async def scene(s: Session) -> None:
        s.hooks.error = error
        s.libfuse.handlers[Opcode.OPEN] = returning(opened())
        assert await s.kernel.call(Opcode.OPEN, unique=10) == (-number, 10, b"")

    play(scene)


def test_opening_a_directory_is_not_touched() -> None:
    async def scene(s: Session) -> None:
        s.libfuse.handlers[Opcode.OPENDIR] = returning(opened())
        assert (await s.kernel.call(Opcode.OPENDIR, unique=10)).body == opened()

    play(scene)


# -- what is answered here ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("opcode", "number"),
    [
        (Opcode.READ, errno.EINVAL),
        (Opcode.WRITE, errno.EINVAL),
        (Opcode.COPY_FILE_RANGE, errno.EINVAL),
        (Opcode.COPY_FILE_RANGE_64, errno.EINVAL),
    ],
)
def test_data_never_reaches_libfuse(opcode: Opcode, number: int) -> None:
    async def scene(s: Session) -> None:
        assert await s.kernel.call(opcode, bytes(80), unique=10) == (-number, 10, b"")
        assert [header.opcode for header in s.libfuse.seen] == [Opcode.INIT]
        statistics = s.relay.statistics()
        assert statistics.data_reads == (opcode is Opcode.READ)
        assert statistics.data_writes == (opcode is Opcode.WRITE)

    play(scene)


@pytest.mark.parametrize(
    ("opcode", "body", "number"),
    [
        (Opcode.SYNCFS, b"", 0),
        (Opcode.FSYNC, b"", 0),
        (Opcode.FSYNCDIR, b"", 0),
        (Opcode.FLUSH, b"", 0),
        (Opcode.RELEASE, b"", 0),
        (Opcode.RELEASEDIR, b"", 0),
        (Opcode.GETXATTR, abi.GETXATTR_IN.pack(0) + b"security.capability\0", errno.EOPNOTSUPP),
        (Opcode.GETXATTR, abi.GETXATTR_IN.pack(0) + b"user\0", errno.EOPNOTSUPP),
        (Opcode.GETXATTR, b"", errno.EOPNOTSUPP),
    ],
)
def test_what_has_one_answer_never_reaches_libfuse(opcode: Opcode, body: bytes, number: int) -> None:
    async def scene(s: Session) -> None:
        assert await s.kernel.call(opcode, body, unique=10) == (-number, 10, b"")
        assert [header.opcode for header in s.libfuse.seen] == [Opcode.INIT]
        assert s.relay.statistics().in_flight == 0

    play(scene)


def test_attributes_of_users_are_asked_for_behind_libfuse() -> None:
    async def scene(s: Session) -> None:
        s.libfuse.handlers[Opcode.GETXATTR] = returning(b"value")
        asked = abi.GETXATTR_IN.pack(64) + b"user.\0"
        assert (await s.kernel.call(Opcode.GETXATTR, asked, unique=10)).body == b"value"

    play(scene)


def test_forgets_and_interrupts_go_to_the_hooks_and_get_no_answer() -> None:
    async def scene(s: Session) -> None:
        await s.kernel.send(Opcode.FORGET, abi.FORGET_IN.pack(1), unique=10, nodeid=8)
        batch = abi.BATCH_FORGET_IN.pack(2) + abi.FORGET_ONE.pack(5, 1) + abi.FORGET_ONE.pack(6, 2)
        await s.kernel.send(Opcode.BATCH_FORGET, batch, unique=12)
        await s.kernel.send(Opcode.INTERRUPT, abi.INTERRUPT_IN.pack(40 | RESENT), unique=41)
        assert (await s.kernel.call(Opcode.GETATTR, unique=14)).unique == 14
        assert s.hooks.calls == [("forget", [8]), ("forget", [5, 6]), ("interrupt", 40)]
        statistics = s.relay.statistics()
        assert (statistics.swallowed, statistics.interrupted, statistics.in_flight) == (3, 1, 0)

    play(scene)


def test_a_hook_that_fails_at_a_forget_is_logged_and_the_session_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scene(s: Session) -> None:
        s.hooks.error = RuntimeError("bug")
        await s.kernel.send(Opcode.FORGET, abi.FORGET_IN.pack(1), unique=10)
        assert (await s.kernel.call(Opcode.GETATTR, unique=12)).unique == 12

    play(scene)
    assert "FORGET" in caplog.text and "bug" in caplog.text


@INLINE
def test_a_long_fallocate_holds_nobody_up(inline: bool) -> None:
    async def scene(s: Session) -> None:
        s.hooks.gate = trio.Event()
        await s.kernel.send(Opcode.FALLOCATE, FALLOCATE, unique=10)
        assert await s.kernel.call(Opcode.GETATTR, unique=12) == (0, 12, b"")
        s.hooks.gate.set()
        assert await s.kernel.receive() == (0, 10, b"")
        assert s.hooks.calls == [("fallocate", Request(10, False, 7, 1000, 100, PID), 5, 0, 8192, 1)]

    play(scene, inline=inline)


def test_lseek_answers_an_offset() -> None:
    async def scene(s: Session) -> None:
        got = await s.kernel.call(Opcode.LSEEK, abi.LSEEK_IN.pack(5, 4096, os.SEEK_DATA), unique=10)
        assert abi.LSEEK_OUT.unpack(got.body) == (8192,)
        assert s.hooks.calls[0][2:] == (4096, os.SEEK_DATA)

    play(scene)


def test_a_tmpfile_is_an_entry_and_an_open_file_with_its_backing_id() -> None:
    async def scene(s: Session) -> None:
        s.hooks.backing = {55: 3}
        body = abi.CREATE_IN.pack(os.O_RDWR, 0o100600, 0o22, 0) + b"#1\0"
        got = await s.kernel.call(Opcode.TMPFILE, body, unique=10)
        assert abi.ENTRY_OUT_HEAD.unpack_from(got.body)[0] == 55
        passthrough = UNCACHED | OpenFlag.PASSTHROUGH
        assert abi.OPEN_OUT.unpack_from(got.body, 128) == (66, passthrough, 3)
        assert s.hooks.calls[0][2:] == (0o100600, os.O_RDWR, 0o22)

    play(scene)


@pytest.mark.parametrize(
    ("error", "number", "logged"),
    [(BusyFsError("pinned"), errno.EBUSY, False), (RuntimeError("a bug"), errno.EIO, True)],
)
def test_a_hook_refuses_with_an_errno_and_a_bug_is_logged(
    error: Exception, number: int, logged: bool, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(s: Session) -> None:
        s.hooks.error = error
        assert await s.kernel.call(Opcode.FALLOCATE, FALLOCATE, unique=10) == (-number, 10, b"")

    play(scene)
    assert ("a bug" in caplog.text) == logged
    assert all(record.levelno >= logging.ERROR for record in caplog.records)


def test_a_request_too_short_for_its_kind_is_answered() -> None:
    async def scene(s: Session) -> None:
        assert await s.kernel.call(Opcode.FALLOCATE, b"", unique=10) == (-errno.EIO, 10, b"")

    play(scene)
