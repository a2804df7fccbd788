"""Where the daemon's log goes: to systemd's journal with level and fields, or to stderr as lines.

Fields in the journal: MESSAGE, PRIORITY, GUESTMEMFS_INSTANCE, CODE_FILE, CODE_LINE, CODE_FUNC, LOGGER. So
`journalctl GUESTMEMFS_INSTANCE=guests -p warning` finds what matters, whatever process wrote it.

Invariants: logging never waits and never raises; what the journal does not take goes to stderr. Which of
the two it is, is seen anew for every record: a successor's stderr becomes the journal only when it is warm.
Sources: systemd.exec(5) $JOURNAL_STREAM, systemd's JOURNAL_NATIVE_PROTOCOL. Called by the daemon.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import sys
from collections.abc import Iterable, Mapping

JOURNAL_SOCKET = "/run/systemd/journal/socket"
_LINE_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
_LENGTH = struct.Struct("<Q")


def configure(instance: str, environ: Mapping[str, str] | None = None) -> None:
    """Send everything from INFO on where it belongs. instance: name, for the journal."""
    handler = JournalHandler(instance, os.environ if environ is None else environ)
    logging.basicConfig(level=logging.INFO, handlers=[handler])


def is_journal(fd: int, environ: Mapping[str, str]) -> bool:
    """Whether what is written to fd goes to the journal anyway: JOURNAL_STREAM is its DEVICE:INODE."""
    try:
        status = os.fstat(fd)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def priority(level: int) -> int:
    """syslog(3)'s number for a level of logging."""
    if level >= logging.CRITICAL:
        return 2
    if level >= logging.ERROR:
        return 3
    if level >= logging.WARNING:
        return 4
    return 6 if level >= logging.INFO else 7


def packed(fields: Iterable[tuple[str, str]]) -> bytes:
    """One entry as journald takes it: KEY=value, or KEY and a length where the value has line breaks."""
    out = bytearray()
    for key, value in fields:
        raw = value.encode(errors="backslashreplace")
        if b"\n" in raw:
            out += key.encode() + b"\n" + _LENGTH.pack(len(raw)) + raw + b"\n"
        else:
            out += key.encode() + b"=" + raw + b"\n"
    return bytes(out)


class JournalHandler(logging.Handler):
    """See the module's docstring."""

    def __init__(self, instance: str, environ: Mapping[str, str], address: str = JOURNAL_SOCKET) -> None:
        super().__init__()
        self._instance = instance
        self._environ = environ
        self._address = address
        self._line = logging.Formatter(_LINE_FORMAT)
        self._plain = logging.Formatter("%(message)s")
        self._socket: socket.socket | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        try:
            if not (is_journal(2, self._environ) and self._to_journal(record)):
                print(self._line.format(record), file=sys.stderr, flush=True)
        except Exception:
            self.handleError(record)

    def _to_journal(self, record: logging.LogRecord) -> bool:
        entry = packed(
            (
                ("MESSAGE", self._plain.format(record)),
                ("PRIORITY", str(priority(record.levelno))),
                ("SYSLOG_IDENTIFIER", "guestmemfs"),
                ("GUESTMEMFS_INSTANCE", self._instance),
                ("CODE_FILE", record.pathname),
                ("CODE_LINE", str(record.lineno)),
                ("CODE_FUNC", record.funcName or ""),
                ("LOGGER", record.name),
            )
        )
        try:
            if self._socket is None:
                self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.sendto(entry, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL, self._address)
        except OSError:
            return False
        return True
