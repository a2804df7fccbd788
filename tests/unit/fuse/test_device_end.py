"""What the device's errors mean; a file that fails stands for it."""

from __future__ import annotations

import errno
import io
import os

import pytest

from guestmemfs_fuse.fuse.device_end import DeviceEnd
from guestmemfs_fuse.fuse.phase import Ended
from guestmemfs_fuse.fuse.statistics import Counters


class Failing(io.FileIO):
    """A file whose every read and write fails with one errno."""

    def __init__(self, number: int) -> None:
        super().__init__(os.open(os.devnull, os.O_RDWR), "r+")
        self._number = number

    def readinto(self, buffer: object) -> int | None:
        raise OSError(self._number, os.strerror(self._number))

    def write(self, data: object) -> int:
        raise OSError(self._number, os.strerror(self._number))


class Bench:
    def __init__(self, number: int) -> None:
        self.counters = Counters()
        self.ended: list[Ended] = []
        self.end = DeviceEnd(-1, self.counters, self.ended.append, Failing(number))


ENDS = [
    (errno.ENODEV, Ended.UNMOUNTED),
    (errno.ECONNABORTED, Ended.ABORTED),
    (errno.ENOTCONN, Ended.ABORTED),
]


@pytest.mark.parametrize(("number", "ended"), ENDS)
def test_some_errors_end_the_session(number: int, ended: Ended) -> None:
    bench = Bench(number)
    assert not bench.end.read()
    bench.end.write(b"reply")
    assert bench.end.ask_for_resend() is False
    assert bench.ended == [ended] * 3


def test_a_request_withdrawn_while_it_was_read_is_nothing() -> None:
    bench = Bench(errno.ENOENT)
    message = bench.end.read()
    assert message is not None and not message
    assert not bench.ended


def test_a_reply_nobody_waits_for_is_counted() -> None:
    bench = Bench(errno.ENOENT)
    bench.end.write(b"reply")
    assert bench.counters.stale_replies == 1
    assert bench.counters.bytes_to_kernel == 0
    assert not bench.ended


def test_a_reply_the_kernel_refuses_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(errno.EINVAL)
    bench.end.write(b"reply")
    assert "refused a message of 5 bytes" in caplog.text
    assert not bench.ended


def test_a_kernel_without_resend_says_so_by_einval() -> None:
    bench = Bench(errno.EINVAL)
    assert bench.end.ask_for_resend() is False
    assert not bench.ended


def test_an_unknown_error_is_not_swallowed() -> None:
    bench = Bench(errno.ENOMEM)
    with pytest.raises(OSError):
        bench.end.read()
    with pytest.raises(OSError):
        bench.end.write(b"reply")
