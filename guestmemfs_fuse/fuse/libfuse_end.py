"""The relay's end towards libfuse: a socketpair that keeps message boundaries, whose other end libfuse reads.

Owns our end of the pair; the other one belongs to libfuse, which closes it in fuse_session_destroy().
Invariant: owed counts the messages that libfuse was given and has not answered. Called by the relay only.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

import trio

from guestmemfs_fuse.fuse import abi
from guestmemfs_fuse.fuse.wire import Buffer

# Room for every reply that can be outstanding, so that libfuse's blocking write never waits for us
_BUFFER_BYTES: Final = 4 << 20
_SO_SNDBUFFORCE: Final = 32  # include/uapi/asm-generic/socket.h; needs CAP_NET_ADMIN


class LibfuseEnd:
    """on_end: told when libfuse closed its end."""

    def __init__(self, on_end: Callable[[], None]) -> None:
        self._on_end = on_end
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC)
        for end in (self._ours, theirs):
            try:
                end.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _BUFFER_BYTES)
            except PermissionError:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        # theirs blocks: libfuse takes EAGAIN for the end of everything
        self._ours.setblocking(False)
        self.session_fd = theirs.detach()
        self.owed = 0
        self._buffer = memoryview(bytearray(abi.REQUEST_BUFFER_BYTES))

    def send(self, message: Buffer) -> bool:
        """Give libfuse a request; False when the socket is full."""
        try:
            self._ours.send(message)
        except BlockingIOError:
            return False
        except ConnectionError:
            self._on_end()
        self.owed += 1
        return True

    async def send_later(self, message: Buffer) -> None:
        """After send() said False: libfuse lags far behind (never while it asks for each request)."""
        while not self.send(message):
            await trio.lowlevel.wait_writable(self._ours)

    def receive(self) -> memoryview | None:
        """One reply or notification, valid until the next; None when there is none."""
        try:
            length = self._ours.recv_into(self._buffer)
        except BlockingIOError:
            return None
        except OSError:
            length = 0
        if not length:
            self._on_end()
            return None
        return self._buffer[:length]

    async def wait(self) -> None:
        """Return when libfuse wrote something."""
        await trio.lowlevel.wait_readable(self._ours)

    def close(self) -> None:
        """Close our end."""
        self._ours.close()
