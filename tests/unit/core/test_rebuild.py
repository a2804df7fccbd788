"""Errors keep their class, words and exit code when they cross a process boundary."""

from __future__ import annotations

import pytest

from guestmemfs_fuse.core import errors
from guestmemfs_fuse.core.rebuild import rebuild_error


@pytest.mark.parametrize("cls", [errors.OutOfMemoryError, errors.RegionFullError, errors.GuestmemfsError])
def test_a_known_class_is_rebuilt(cls: type[errors.GuestmemfsError]) -> None:
    again = rebuild_error(cls.__name__, "words", "hint", int(cls.exit_code))
    assert type(again) is cls
    assert (again.message, again.hint, again.exit_code) == ("words", "hint", cls.exit_code)


@pytest.mark.parametrize("name", ["NewerError", "ExitCode", "IntEnum", "__name__", ""])
def test_an_unknown_class_becomes_a_daemon_error(name: str) -> None:
    again = rebuild_error(name, "words", None, int(errors.ExitCode.BUSY))
    assert type(again) is errors.DaemonError
    assert again.exit_code is errors.ExitCode.BUSY


def test_an_exit_code_of_another_version_is_not_taken_over() -> None:
    assert rebuild_error("UsageError", "words", None, 99).exit_code is errors.ExitCode.USAGE
