"""The journal's bytes, and who gets a record: the journal only if stderr is one."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

import pytest

from guestmemfs_fuse.handover import journal
from guestmemfs_fuse.handover.journal import JournalHandler


def record(text: str, level: int = logging.WARNING) -> logging.LogRecord:
    return logging.LogRecord("guestmemfs.x", level, "/a/file.py", 7, text, (), None, "work")


def as_journal_of(fd: int) -> dict[str, str]:
    status = os.fstat(fd)
    return {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}


def test_stderr_is_the_journal_when_device_and_inode_say_so() -> None:
    reader, writer = os.pipe()
    try:
        assert journal.is_journal(writer, as_journal_of(writer))
        assert not journal.is_journal(writer, {})
        assert not journal.is_journal(writer, {"JOURNAL_STREAM": "1:2"})
    finally:
        os.close(reader)
        os.close(writer)
    assert not journal.is_journal(writer, as_journal_of(2))


def test_values_with_line_breaks_have_a_length() -> None:
    assert journal.packed([("A", "x=y"), ("B", "1\n2")]) == b"A=x=y\nB\n\x03" + b"\0" * 7 + b"1\n2\n"


@pytest.mark.parametrize(
    ("level", "number"),
    [(logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6), (logging.DEBUG, 7)],
)
def test_levels_are_those_of_syslog(level: int, number: int) -> None:
    assert journal.priority(level) == number


def test_a_record_reaches_the_journal_with_its_fields(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as there:
        there.bind(str(tmp_path / "journal"))
        JournalHandler("guests", as_journal_of(2), str(tmp_path / "journal")).emit(record("look"))
        lines = there.recv(4096).decode().splitlines()
    assert "MESSAGE=look" in lines and "PRIORITY=4" in lines and "GUESTMEMFS_INSTANCE=guests" in lines
    assert "CODE_FILE=/a/file.py" in lines and "CODE_LINE=7" in lines and "CODE_FUNC=work" in lines


@pytest.mark.parametrize("environ", [{}, "journal that is gone"])
def test_what_the_journal_does_not_take_is_a_line_on_stderr(
    environ: dict[str, str] | str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = as_journal_of(2) if isinstance(environ, str) else environ
    JournalHandler("guests", given, str(tmp_path / "nobody")).emit(record("look"))
    assert capsys.readouterr().err.endswith("WARNING guestmemfs.x: look\n")
