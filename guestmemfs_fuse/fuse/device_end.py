"""The relay's end towards the kernel: one message read, one message written, and what errors there mean.

Does not own the descriptor, which outlives daemons. Sources: fuse_dev_do_read() and fuse_dev_do_write() in
fs/fuse/dev.c. Called by the relay only.
"""

from __future__ import annotations

import errno
import io
import logging
from collections.abc import Callable
from typing import Final

import trio

from guestmemfs_fuse.fuse import abi, notify
from guestmemfs_fuse.fuse.phase import Ended
from guestmemfs_fuse.fuse.statistics import Counters
from guestmemfs_fuse.fuse.wire import Buffer

_log = logging.getLogger(__name__)

_ENDS: Final = {
    errno.ENODEV: Ended.UNMOUNTED,
    errno.ECONNABORTED: Ended.ABORTED,
    errno.ENOTCONN: Ended.ABORTED,
}


class DeviceEnd:
    """fd: a mounted, non-blocking /dev/fuse. on_end: told when the connection turns out to be over.

    file: what to read and write instead of fd (tests put one in that fails).
    """

    def __init__(
        self, fd: int, counters: Counters, on_end: Callable[[Ended], None], file: io.FileIO | None = None
    ) -> None:
        self._fd = fd
        self._counters = counters
        self._on_end = on_end
        # readinto() says None where os.readv() raises: "nothing there" is the usual answer
        self._file = file or io.FileIO(fd, "r+", closefd=False)
        self._buffer = memoryview(bytearray(abi.REQUEST_BUFFER_BYTES))

    def read(self) -> memoryview | None:
        """One request, valid until the next read; empty when it was withdrawn, None when there is none."""
        try:
            length = self._file.readinto(self._buffer)
        except OSError as error:
            self._failed(error)
            return self._buffer[:0]
        if length == 0:  # never said by the device; by a socket that stands for it, when it is closed
            self._on_end(Ended.UNMOUNTED)
        return None if length is None else self._buffer[:length]

    async def wait(self) -> None:
        """Return when there may be a request, or after wake()."""
        try:
            await trio.lowlevel.wait_readable(self._fd)
        except trio.ClosedResourceError:
            pass

    def wake(self) -> None:
        """Make wait() return."""
        trio.lowlevel.notify_closing(self._fd)

    def write(self, message: Buffer) -> None:
        """Write a reply or a notification. A caller who is gone (ENOENT) is only counted."""
        try:
            self._file.write(message)
        except FileNotFoundError:
            self._counters.stale_replies += 1
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EPERM):
                self._failed(error)
            else:
                _log.error("the kernel refused a message of %d bytes: %s", len(message), error)
        else:
            self._counters.bytes_to_kernel += len(message)

    def ask_for_resend(self) -> bool:
        """Have unanswered requests sent again. False: this kernel cannot (EINVAL, before Linux 6.9)."""
        try:
            self._file.write(notify.resend())
        except OSError as error:
            if error.errno != errno.EINVAL:
                self._failed(error)
            return False
        return True

    def _failed(self, error: OSError) -> None:
        if error.errno in _ENDS:
            self._on_end(_ENDS[error.errno])
        elif error.errno != errno.ENOENT:  # which read() says of a request withdrawn while it was copied
            raise error
