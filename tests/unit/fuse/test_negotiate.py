"""The INIT exchange: the kernel never gets what it did not offer, nor what breaks our contract."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestmemfs_fuse.fuse import abi, negotiate, wire
from guestmemfs_fuse.fuse.abi import InitFlag, Opcode
from guestmemfs_fuse.fuse.wire import WireError

FLAGS = st.integers(0, 2**64 - 1)
EVERYTHING = 2**64 - 1
NEVER = (
    InitFlag.ATOMIC_O_TRUNC
    | InitFlag.WRITEBACK_CACHE
    | InitFlag.HANDLE_KILLPRIV
    | InitFlag.HANDLE_KILLPRIV_V2
    | InitFlag.POSIX_LOCKS
    | InitFlag.FLOCK_LOCKS
    | InitFlag.OVER_IO_URING
    | InitFlag.REQUEST_TIMEOUT
    | InitFlag.SPLICE_READ
    | InitFlag.MAX_PAGES
)


def init_request(
    flags: int = EVERYTHING, *, major: int = 7, minor: int = 45, opcode: int = Opcode.INIT
) -> bytes:
    body = abi.INIT_IN.pack(major, minor, 131072, flags & 0xFFFF_FFFF, flags >> 32)
    body = body.ljust(abi.INIT_IN_BYTES, b"\0")
    length = abi.IN_HEADER.size + len(body)
    return abi.IN_HEADER.pack(length, opcode, 2, 0, 0, 0, 0, 0, 0) + body


def init_reply(flags: int = EVERYTHING, *, major: int = 7, error: int = 0) -> bytes:
    body = abi.INIT_OUT_COMPAT_22.pack(major, 13, 131072, flags & 0xFFFF_FFFF, 12, 9, 1 << 20)
    return abi.OUT_HEADER.pack(abi.OUT_HEADER.size + len(body), error, 2) + body


@given(offered=FLAGS, wanted=FLAGS)
def test_nothing_is_accepted_that_was_not_offered_or_must_not_be(offered: int, wanted: int) -> None:
    answer = negotiate.reply_for_kernel(init_reply(wanted), init_request(offered))
    accepted = negotiate.accepted(answer)
    assert not accepted & ~InitFlag(offered)
    assert not accepted & NEVER
    assert len(answer) == abi.OUT_HEADER.size + 64
    assert wire.reply_header(answer).unique == 2


@given(offered=FLAGS)
def test_libfuse_sees_an_old_kernel_that_offers_little(offered: int) -> None:
    shown = negotiate.request_for_libfuse(init_request(offered))
    assert len(shown) == len(init_request())
    major, minor, max_readahead, low, high = abi.INIT_IN.unpack_from(shown, abi.IN_HEADER.size)
    assert (major, minor, max_readahead, high) == (7, negotiate.LIBFUSE_MINOR, 131072, 0)
    assert not InitFlag(low) & ~(InitFlag(offered) & negotiate.LIBFUSE_MAY_USE)


def test_passthrough_is_switched_on_by_flags_depth_and_a_small_max_write() -> None:
    answer = negotiate.reply_for_kernel(init_reply(), init_request())
    fields = abi.INIT_OUT.unpack_from(answer, abi.OUT_HEADER.size)
    major, minor, _, low, background, congestion, max_write, time_gran, *_, high, depth, timeout = fields
    assert (major, minor, max_write, time_gran, depth, timeout) == (7, 45, 4096, 1, 1, 0)
    assert (background, congestion) == (12, 9)
    assert low & InitFlag.INIT_EXT and high & (InitFlag.PASSTHROUGH >> 32)
    assert low & InitFlag.PARALLEL_DIROPS


def test_without_passthrough_in_the_kernel_there_is_no_stack_depth() -> None:
    offered = EVERYTHING & ~InitFlag.PASSTHROUGH
    answer = negotiate.reply_for_kernel(init_reply(), init_request(offered, minor=38))
    fields = abi.INIT_OUT.unpack_from(answer, abi.OUT_HEADER.size)
    assert fields[1] == 38
    assert fields[11] == 0


@given(message=st.binary(max_size=200))
def test_any_bytes_are_negotiated_or_raise_wire_error(message: bytes) -> None:
    for call in (
        lambda: negotiate.offered(message),
        lambda: negotiate.request_for_libfuse(message),
        lambda: negotiate.reply_for_kernel(message, init_request()),
        lambda: negotiate.reply_for_kernel(init_reply(), message),
    ):
        try:
            call()
        except WireError:
            pass


@pytest.mark.parametrize(
    ("reply", "request_"),
    [
        (init_reply(error=-71), init_request()),
        (init_reply(major=8), init_request()),
        (init_reply()[:30], init_request()),
        (init_reply(), init_request(major=8)),
        (init_reply(), init_request(opcode=Opcode.LOOKUP)),
        (init_reply(), init_request()[:56]),
    ],
    ids=["refused", "libfuse major", "short reply", "kernel major", "not INIT", "short request"],
)
def test_an_exchange_that_cannot_work_is_refused(reply: bytes, request_: bytes) -> None:
    with pytest.raises(WireError):
        negotiate.reply_for_kernel(reply, request_)
