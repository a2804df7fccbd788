"""Reading, patching and building messages; whatever bytes come, only WireError leaves."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestmemfs_fuse.fuse import abi, wire
from guestmemfs_fuse.fuse.abi import Opcode, OpenFlag, SetAttr
from guestmemfs_fuse.fuse.wire import WireError
from tests.unit.fuse.fake_session import Attributes

U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)
UNCACHED = OpenFlag.DIRECT_IO | OpenFlag.NOFLUSH
BACKING_IDS = st.none() | st.integers(1, 2**31 - 1)


def request(opcode: int, body: bytes = b"", unique: int = 2, nodeid: int = 1, pid: int = 4711) -> bytes:
    length = abi.IN_HEADER.size + len(body)
    return abi.IN_HEADER.pack(length, opcode, unique, nodeid, 1000, 100, pid, 0, 0) + body


def reply(body: bytes = b"", unique: int = 2, error: int = 0) -> bytes:
    return abi.OUT_HEADER.pack(abi.OUT_HEADER.size + len(body), error, unique) + body


@given(opcode=U32, body=st.binary(max_size=64))
def test_any_request_with_a_true_length_parses_or_raises_wire_error(opcode: int, body: bytes) -> None:
    message = request(opcode, body)
    assert wire.request_header(message).opcode == opcode
    for parse in (wire.fallocate_request, wire.lseek_request, wire.tmpfile_request, wire.forgotten_nodeids):
        try:
            parse(message)
        except WireError:
            assert len(body) < 32 or parse is wire.forgotten_nodeids


def test_a_header_that_lies_about_the_length_is_refused() -> None:
    with pytest.raises(WireError):
        wire.request_header(request(Opcode.GETATTR) + b"x")
    with pytest.raises(WireError):
        wire.reply_header(reply() + b"x")


@given(token=st.integers(1, 2**31 - 1), unique=U64, nodeid=U64, body=st.binary(max_size=32))
def test_stamp_replaces_the_pid_and_nothing_else(token: int, unique: int, nodeid: int, body: bytes) -> None:
    before = request(Opcode.LOOKUP, body, unique, nodeid)
    message = bytearray(before)
    wire.stamp(message, token)
    assert wire.request_header(message) == wire.request_header(before)._replace(pid=token)
    assert message[: abi.IN_HEADER_PID_OFFSET] == before[: abi.IN_HEADER_PID_OFFSET]
    assert message[abi.IN_HEADER_PID_OFFSET + 4 :] == before[abi.IN_HEADER_PID_OFFSET + 4 :]


@pytest.mark.parametrize("token", [0, -1, 2**31])
def test_stamp_refuses_what_a_pid_cannot_hold(token: int) -> None:
    with pytest.raises(WireError):
        wire.stamp(bytearray(request(Opcode.LOOKUP)), token)


@given(valid=U32, body=st.binary(max_size=88))
def test_regression_a_time_of_now_is_not_the_kernels(valid: int, body: bytes) -> None:
    """Its coarse clock is behind ours: a file touched right after it was made became older."""
    before = request(Opcode.SETATTR, abi.SETATTR_VALID.pack(valid) + body)
    message = bytearray(before)
    wire.leave_now_to_us(message)
    at = abi.IN_HEADER.size
    left = abi.SETATTR_VALID.unpack_from(message, at)[0]
    atime, mtime = SetAttr.ATIME.value, SetAttr.MTIME.value
    for given_bit, now_bit in ((atime, SetAttr.ATIME_NOW.value), (mtime, SetAttr.MTIME_NOW.value)):
        assert bool(left & given_bit) == bool(valid & given_bit and not valid & now_bit)
    assert left | atime | mtime == valid | atime | mtime
    assert message[:at] == before[:at] and message[at + 4 :] == before[at + 4 :]


@given(fh=U64, flags=U32, backing_id=BACKING_IDS)
def test_a_patched_open_keeps_the_handle_and_none_of_the_flags(
    fh: int, flags: int, backing_id: int | None
) -> None:
    message = bytearray(reply(abi.OPEN_OUT.pack(fh, flags, 0)))
    wire.patch_open(message, backing_id)
    patched_fh, patched_flags, patched_id = abi.OPEN_OUT.unpack_from(message, abi.OUT_HEADER.size)
    passthrough = OpenFlag.PASSTHROUGH if backing_id else OpenFlag(0)
    assert (patched_fh, patched_id) == (fh, backing_id or 0)
    assert patched_flags == UNCACHED | passthrough


@given(nodeid=U64, fh=U64, backing_id=BACKING_IDS)
def test_a_patched_create_keeps_the_entry(nodeid: int, fh: int, backing_id: int | None) -> None:
    entry = abi.ENTRY_OUT_HEAD.pack(nodeid, 0, 1, 1, 0, 0) + bytes(range(abi.ATTR.size))
    message = bytearray(reply(entry + abi.OPEN_OUT.pack(fh, OpenFlag.KEEP_CACHE, 0)))
    assert wire.created_nodeid(message) == nodeid
    wire.patch_create(message, backing_id)
    assert bytes(message[abi.OUT_HEADER.size :]).startswith(entry)
    patched_flags = abi.OPEN_OUT.unpack_from(message, abi.OUT_HEADER.size + abi.ENTRY_OUT_BYTES)[1]
    assert not patched_flags & OpenFlag.KEEP_CACHE


@pytest.mark.parametrize("backing_id", [0, -1, 2**31])
def test_only_positive_numbers_are_backing_ids(backing_id: int) -> None:
    with pytest.raises(WireError):
        wire.patch_open(bytearray(reply(abi.OPEN_OUT.pack(1, 0, 0))), backing_id)


def test_requests_of_our_own_are_read() -> None:
    assert wire.fallocate_request(request(Opcode.FALLOCATE, abi.FALLOCATE_IN.pack(5, 4096, 8192, 3))) == (
        5,
        4096,
        8192,
        3,
    )
    assert wire.lseek_request(request(Opcode.LSEEK, abi.LSEEK_IN.pack(5, 4096, 4))) == (5, 4096, 4)
    body = abi.CREATE_IN.pack(2, 0o100600, 0o22, 0) + b"#123\0"
    assert wire.tmpfile_request(request(Opcode.TMPFILE, body)) == (2, 0o100600, 0o22)
    assert wire.interrupted_unique(request(Opcode.INTERRUPT, abi.INTERRUPT_IN.pack(42))) == 42


@given(nodeids=st.lists(U64, max_size=20))
def test_a_batch_of_forgets_names_every_nodeid(nodeids: list[int]) -> None:
    body = abi.BATCH_FORGET_IN.pack(len(nodeids)) + b"".join(abi.FORGET_ONE.pack(n, 1) for n in nodeids)
    assert wire.forgotten_nodeids(request(Opcode.BATCH_FORGET, body)) == nodeids


def test_a_single_forget_is_about_the_headers_nodeid() -> None:
    assert wire.forgotten_nodeids(request(Opcode.FORGET, abi.FORGET_IN.pack(3), nodeid=77)) == [77]


@given(unique=U64, errno=st.integers(0, 511))
def test_an_error_reply_carries_a_negative_errno(unique: int, errno: int) -> None:
    assert wire.reply_header(wire.error_reply(unique, errno)) == (abi.OUT_HEADER.size, -errno, unique)


@pytest.mark.parametrize("errno", [-1, 512])
def test_an_errno_the_kernel_would_refuse_is_not_sent(errno: int) -> None:
    with pytest.raises(WireError):
        wire.error_reply(2, errno)


def test_an_lseek_reply_carries_the_offset() -> None:
    message = wire.lseek_reply(2, 1 << 50)
    assert wire.reply_header(message).error == 0
    assert abi.LSEEK_OUT.unpack(message[abi.OUT_HEADER.size :]) == (1 << 50,)
    with pytest.raises(WireError):
        wire.lseek_reply(2, -1)


def test_a_created_reply_carries_entry_and_open_file() -> None:
    message = wire.created_reply(2, Attributes(), 99, 3)
    assert wire.reply_header(message) == (160, 0, 2)
    assert wire.created_nodeid(message) == 7
    assert abi.ENTRY_OUT_HEAD.unpack_from(message, 16) == (7, 0, 300, 0, 0, 250_000_000)
    ino, size, blocks, atime, mtime, ctime, atime_ns, mtime_ns, ctime_ns, mode, *rest = abi.ATTR.unpack_from(
        message, 56
    )
    assert (ino, size, blocks, mode) == (7, 1 << 40, 4096, 0o100600)
    assert (atime, atime_ns, ctime, ctime_ns) == (1, 500_000_000, 0, 0)
    assert (mtime, mtime_ns) == (2**64 - 1, 999_999_999), "before 1970"
    assert rest == [0, 1000, 100, 0, 1 << 21, 0]
    flags = UNCACHED | OpenFlag.PASSTHROUGH
    assert abi.OPEN_OUT.unpack_from(message, 144) == (99, flags, 3)


@given(size=st.integers(-(2**70), 2**70), fh=st.integers(-1, 2**65))
def test_attributes_that_do_not_fit_are_refused(size: int, fh: int) -> None:
    fits = 0 <= size < 2**64 and 0 <= fh < 2**64
    try:
        wire.created_reply(2, Attributes(st_size=size), fh, None)
    except WireError:
        assert not fits
    else:
        assert fits
