"""Notifications, the messages the daemon sends on its own (unique 0, the code in the error field). Pure.

Called by device.py and the relay.
"""

from __future__ import annotations

from typing import Final

from guestmemfs_fuse.fuse import abi
from guestmemfs_fuse.fuse.wire import WireError

_NAME_MAX_BYTES: Final = 255


def _message(code: abi.Notify, body: bytes) -> bytes:
    return abi.OUT_HEADER.pack(abi.OUT_HEADER.size + len(body), code.value, 0) + body


def inval_inode(nodeid: int, offset: int, length: int) -> bytes:
    """Drop cached attributes, and cached data from offset (bytes; negative: attributes only)."""
    if not 0 < nodeid < 1 << 64:
        raise WireError(f"{nodeid} is no nodeid")
    return _message(abi.Notify.INVAL_INODE, abi.NOTIFY_INVAL_INODE_OUT.pack(nodeid, offset, length))


def inval_entry(parent_nodeid: int, name: bytes) -> bytes:
    """Drop a cached name of a directory."""
    if not 0 < parent_nodeid < 1 << 64:
        raise WireError(f"{parent_nodeid} is no nodeid")
    if not 0 < len(name) <= _NAME_MAX_BYTES or b"\0" in name:
        raise WireError(f"{name!r} is no file name")
    head = abi.NOTIFY_INVAL_ENTRY_OUT.pack(parent_nodeid, len(name), 0)
    return _message(abi.Notify.INVAL_ENTRY, head + name + b"\0")


def resend() -> bytes:
    """Ask for every request again that a dead daemon had read and not answered (Linux >= 6.9)."""
    return _message(abi.Notify.RESEND, b"")
