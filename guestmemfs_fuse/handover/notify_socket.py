"""The receiving end of sd_notify(3): a datagram socket in the state directory.

Invariants: only root's messages (or our own user's, in tests) are heard, by the credentials the kernel
attaches; every received descriptor is close-on-exec and the caller's to close; receiving never blocks and
never raises for what a sender did. Used by the holder only.
"""

from __future__ import annotations

import array
import os
import socket
import struct

from guestmemfs_fuse.handover.short_path import short_path

_SUN_PATH_MAX = 107
_MESSAGE_BYTES = 1 << 18
_MAX_FDS = 253  # SCM_MAX_FD, include/net/scm.h
_UCRED = struct.Struct("3i")
_SPACE = socket.CMSG_SPACE(_MAX_FDS * 4) + socket.CMSG_SPACE(_UCRED.size)


def parse_message(data: bytes) -> dict[str, str]:
    """KEY=value lines as sd_notify(3) has them; what is not like that is left out."""
    pairs = (line.partition("=") for line in data.decode(errors="surrogateescape").split("\n"))
    return {key: value for key, separator, value in pairs if key and separator}


class NotifySocket:
    """Bound while it lives; `address` is what goes into NOTIFY_SOCKET."""

    def __init__(self, path: str) -> None:
        """path: absolute; a stale socket there is replaced. Raises OSError."""
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        # The name takes its mode from the socket's inode.
        os.fchmod(self._socket.fileno(), 0o600)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        with short_path(path) as address:
            self._socket.bind(address)
        self.address = path
        if len(os.fsencode(path)) > _SUN_PATH_MAX:
            # Too long for an address, but reachable through a descriptor of ours while we live.
            directory, name = os.path.split(path)
            dir_fd = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            self.address = f"/proc/{os.getpid()}/fd/{dir_fd}/{name}"

    def fileno(self) -> int:
        """Readable when there is a message."""
        return self._socket.fileno()

    def unlink(self) -> None:
        """Take the name away."""
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass

    def receive(self) -> tuple[dict[str, str], list[int]] | None:
        """The next message and its descriptors, None when there is none now."""
        while True:
            try:
                data, ancillary, flags, _sender = self._socket.recvmsg(
                    _MESSAGE_BYTES, _SPACE, socket.MSG_CMSG_CLOEXEC
                )
            except (BlockingIOError, InterruptedError):
                return None
            fds, uid = _unpack(ancillary)
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC) == 0 and uid in (0, os.geteuid()):
                return parse_message(data), fds
            for fd in fds:
                os.close(fd)


def _unpack(ancillary: list[tuple[int, int, bytes]]) -> tuple[list[int], int]:
    fds = array.array("i")
    uid = -1
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(data[: len(data) - len(data) % fds.itemsize])
        elif level == socket.SOL_SOCKET and kind == socket.SCM_CREDENTIALS:
            _pid, uid, _gid = _UCRED.unpack(data)
    return list(fds), uid
