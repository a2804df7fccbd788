"""A pid file that cannot lie: the lock on it tells whether its process lives, and which one it is.

A record lock (fcntl(2)): the kernel names its owner, it does not pass to children, it stays through exec, and
it ends with the process. It would also end if its owner opened and closed the file once more, so the owner
never does. Standard library only: taken by handover/launch.py for the holder it becomes, held by the holder,
asked by the commands.
"""

from __future__ import annotations

import fcntl
import os
import struct

# struct flock on 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid.
_FLOCK = struct.Struct("@hhqqi4x")


class PidFile:
    """Ours while this process lives."""

    def __init__(self, path: str, fd: int | None = None) -> None:
        """Write our pid to path and lock it; fd: it is open and locked by us already, before an exec.

        Raises OSError (EAGAIN) when another process has it.
        """
        self._path = path
        if fd is not None:
            self._fd = fd
            return
        while not self._lock():
            pass  # its last owner removed it just before we had the lock

    @property
    def fd(self) -> int:
        """The descriptor that has to stay open, also across an exec."""
        return self._fd

    def _lock(self) -> bool:
        self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._is_current():
                os.ftruncate(self._fd, 0)
                os.write(self._fd, f"{os.getpid()}\n".encode())
                return True
        except OSError as error:
            os.close(self._fd)
            error.filename = self._path
            raise
        os.close(self._fd)
        return False

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.stat(self._path), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def remove(self) -> None:
        """Take the file away (unless it is another's by now), then the lock."""
        if self._is_current():
            os.unlink(self._path)
        os.close(self._fd)


def owner(path: str) -> int | None:
    """The pid of the living process whose PidFile path is, or None."""
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        query = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(fd, fcntl.F_GETLK, query)
    finally:
        os.close(fd)
    kind, _whence, _start, _length, pid = _FLOCK.unpack(answer)
    return None if kind == fcntl.F_UNLCK else pid
