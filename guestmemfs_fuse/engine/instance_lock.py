"""The lock that makes sure two daemons never serve one instance.

flock(2) on STATE_DIR/lock: it goes with the process, however that ends. Called by the daemon.
"""

from __future__ import annotations

import fcntl
import os
from typing import Final

import trio

from guestmemfs_fuse.core.errors import InstanceBusyError

WAIT_S: Final = 10.0
"""How long a predecessor, or a process that is dying, may keep it."""


class InstanceLock:
    """A held lock. Released by `release`, or with the process."""

    def __init__(self, fd: int) -> None:
        self._fd: int | None = fd

    @classmethod
    async def acquire(cls, path: str, name: str, wait_s: float = WAIT_S) -> InstanceLock:
        """Take the lock at `path` of instance `name`. Raises InstanceBusyError after wait_s seconds."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        deadline = trio.current_time() + wait_s
        try:
            while True:
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    return cls(fd)
                except BlockingIOError:
                    if trio.current_time() > deadline:
                        message = f"another daemon serves {name}"
                        raise InstanceBusyError(message, hint="guestmemfs status shows it") from None
                await trio.sleep(0.002)
        except BaseException:
            os.close(fd)
            raise

    def release(self) -> None:
        """Let others have it. Twice is harmless."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None
