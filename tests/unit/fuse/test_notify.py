"""Notifications, byte for byte."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestmemfs_fuse.fuse import abi, notify
from guestmemfs_fuse.fuse.wire import WireError, reply_header

NODEIDS = st.integers(1, 2**64 - 1)


@given(nodeid=NODEIDS)
def test_invalidating_attributes_only_has_a_negative_offset(nodeid: int) -> None:
    message = notify.inval_inode(nodeid, -1, 0)
    assert reply_header(message) == (40, 2, 0)
    assert abi.NOTIFY_INVAL_INODE_OUT.unpack_from(message, abi.OUT_HEADER.size) == (nodeid, -1, 0)


@given(parent=NODEIDS, name=st.binary(min_size=1, max_size=255).filter(lambda n: b"\0" not in n))
def test_invalidating_a_name_ends_in_a_zero_byte(parent: int, name: bytes) -> None:
    message = notify.inval_entry(parent, name)
    assert reply_header(message) == (len(message), 3, 0)
    assert abi.NOTIFY_INVAL_ENTRY_OUT.unpack_from(message, abi.OUT_HEADER.size) == (parent, len(name), 0)
    assert message[32:] == name + b"\0"


def test_resend_is_a_header_only() -> None:
    assert notify.resend() == abi.OUT_HEADER.pack(16, 7, 0)


@pytest.mark.parametrize("name", [b"", b"a\0b", b"x" * 256])
def test_what_is_no_name_is_refused(name: bytes) -> None:
    with pytest.raises(WireError):
        notify.inval_entry(1, name)


@pytest.mark.parametrize("nodeid", [0, -1, 2**64])
def test_what_is_no_nodeid_is_refused(nodeid: int) -> None:
    with pytest.raises(WireError):
        notify.inval_inode(nodeid, -1, 0)
    with pytest.raises(WireError):
        notify.inval_entry(nodeid, b"a")
