"""What daemons write to stderr: kept in a file of bounded size, and its end in memory.

Invariants: a full or vanished disk costs log lines, never the holder (and with it guest memory); at most
two files of ROTATE_BYTES plus one read. Used by the holder only.
"""

from __future__ import annotations

import os

ROTATE_BYTES = 1 << 20
TAIL_LINES = 40
_LINE_BYTES = 1000
_READ_BYTES = 1 << 16


class DaemonLog:
    """One file for the life of the holder, whoever the daemon is. Owns nothing but the path."""

    def __init__(self, path: str, rotate_bytes: int = ROTATE_BYTES) -> None:
        self._path = path
        self._rotate_bytes = rotate_bytes
        self._lines: list[bytes] = []
        self._unfinished = b""

    def drain(self, fd: int) -> None:
        """Take everything that can be read from the non-blocking fd now."""
        while True:
            try:
                data = os.read(fd, _READ_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            if not data:
                return
            self.append(data)

    def append(self, data: bytes) -> None:
        """Add what the daemon wrote."""
        self._write(data)
        *lines, self._unfinished = (self._unfinished + data).split(b"\n")
        self._unfinished = self._unfinished[:_LINE_BYTES]
        self._lines = (self._lines + [line[:_LINE_BYTES] for line in lines])[-TAIL_LINES:]

    def note(self, text: str) -> None:
        """Add a line of the holder's own; it is no part of anybody's last words."""
        self._write(f"guestmemfs-holder: {text}\n".encode(errors="replace"))

    def note_bug(self, error: BaseException) -> None:
        """Add what the holder ran into, and the line where: there is no traceback module in it."""
        trace, line = error.__traceback__, 0
        while trace is not None:
            line, trace = trace.tb_lineno, trace.tb_next
        self.note(f"{type(error).__name__}: {error} (line {line})")

    def new_daemon(self) -> None:
        """What follows is somebody else's: the tail starts anew."""
        self._lines, self._unfinished = [], b""

    def tail(self) -> str:
        """The last lines of the present daemon."""
        lines = self._lines + ([self._unfinished] if self._unfinished else [])
        return b"\n".join(lines[-TAIL_LINES:]).decode(errors="replace")

    def _write(self, data: bytes) -> None:
        try:
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.write(fd, data)
                if os.fstat(fd).st_size >= self._rotate_bytes:
                    os.rename(self._path, self._path + ".1")
            finally:
                os.close(fd)
        except OSError:
            pass
