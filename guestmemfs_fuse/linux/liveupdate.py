"""The kernel's live update orchestrator: carry file descriptors across kexec.

Thin: one function an ioctl, structs packed here and nowhere else. What is preserved under which token is
`handover/luo.py`'s business. Source: include/uapi/linux/liveupdate.h (Linux >= 6.19).

Sharp edges: /dev/liveupdate can be open once at a time; a session's fd must stay open until the kexec;
only shmem files with no link left (st_nlink 0) can be preserved, and preserving freezes their size.
"""

from __future__ import annotations

import fcntl
import os
import struct

DEVICE_PATH = "/dev/liveupdate"
SESSION_NAME_BYTES = 64  # including the terminating zero

# _IO(0xBA, nr): no size in the number, every struct starts with its own.
CREATE_SESSION = 0xBA00
RETRIEVE_SESSION = 0xBA01
PRESERVE_FD = 0xBA40
RETRIEVE_FD = 0xBA41
FINISH = 0xBA42

SESSION = struct.Struct("=Ii64s")
FD = struct.Struct("=IiQ")
FINISH_ARG = struct.Struct("=II")


def pack_session(name: str) -> bytearray:
    """struct liveupdate_ioctl_{create,retrieve}_session. Raises ValueError when the name does not fit."""
    raw = name.encode()
    if not raw or len(raw) >= SESSION_NAME_BYTES or b"\0" in raw:
        raise ValueError(f"a session name has 1 to {SESSION_NAME_BYTES - 1} bytes: {name!r}")
    return bytearray(SESSION.pack(SESSION.size, -1, raw))


def pack_fd(fd: int, token: int) -> bytearray:
    """struct liveupdate_session_{preserve,retrieve}_fd; fd is -1 when it is to be filled in."""
    return bytearray(FD.pack(FD.size, fd, token))


def open_device() -> int:
    """Open /dev/liveupdate. Returns the fd. Raises OSError (ENOENT: no LUO here, EBUSY: somebody has it)."""
    return os.open(DEVICE_PATH, os.O_RDWR | os.O_CLOEXEC)


def create_session(device_fd: int, name: str) -> int:
    """Start a session. Returns its fd, to be kept open until the kexec. Raises OSError (EEXIST)."""
    return _session(device_fd, CREATE_SESSION, name)


def retrieve_session(device_fd: int, name: str) -> int:
    """Take over a session that came through the kexec. Returns its fd. Raises OSError (ENOENT)."""
    return _session(device_fd, RETRIEVE_SESSION, name)


def preserve_fd(session_fd: int, fd: int, token: int) -> None:
    """Preserve the file behind fd under a 64-bit token of ours. Raises OSError (EEXIST, EOPNOTSUPP ...)."""
    fcntl.ioctl(session_fd, PRESERVE_FD, pack_fd(fd, token))


def retrieve_fd(session_fd: int, token: int) -> int:
    """The preserved file, as a new fd of the caller's. Raises OSError (ENOENT)."""
    arg = pack_fd(-1, token)
    fcntl.ioctl(session_fd, RETRIEVE_FD, arg)
    return int(FD.unpack(arg)[1])


def finish(session_fd: int) -> None:
    """Tell the kernel that everything was retrieved and its own copy of the records can go."""
    fcntl.ioctl(session_fd, FINISH, bytearray(FINISH_ARG.pack(FINISH_ARG.size, 0)))


def _session(device_fd: int, request: int, name: str) -> int:
    arg = pack_session(name)
    fcntl.ioctl(device_fd, request, arg)
    return int(SESSION.unpack(arg)[1])
