"""Layouts of the live update ioctls (include/uapi/linux/liveupdate.h)."""

from __future__ import annotations

import fcntl

import pytest

from guestmemfs_fuse.linux import liveupdate


def test_session_struct() -> None:
    raw = liveupdate.pack_session("guests")
    assert len(raw) == 72
    assert raw[:8] == (72).to_bytes(4, "little") + b"\xff\xff\xff\xff"
    assert raw[8:] == b"guests".ljust(64, b"\0")


@pytest.mark.parametrize("name", ["", "x" * 64, "a\0b", "ä" * 32])
def test_session_name_must_fit(name: str) -> None:
    with pytest.raises(ValueError, match="1 to 63 bytes"):
        liveupdate.pack_session(name)


def test_longest_session_name() -> None:
    assert liveupdate.pack_session("x" * 63)[-1] == 0


def test_fd_struct() -> None:
    raw = liveupdate.pack_fd(7, 0x1122334455667788)
    assert len(raw) == 16
    assert raw.hex() == "10000000" + "07000000" + "8877665544332211"


def test_calls_use_the_right_numbers_and_return_the_fd(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int, int]] = []

    def ioctl(fd: int, request: int, arg: bytearray) -> int:
        seen.append((fd, request, int.from_bytes(arg[:4], "little")))
        if len(arg) > 8:
            arg[4:8] = (33).to_bytes(4, "little")
        return 0

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    assert liveupdate.create_session(3, "s") == 33
    assert liveupdate.retrieve_session(3, "s") == 33
    liveupdate.preserve_fd(33, 5, 1)
    assert liveupdate.retrieve_fd(33, 1) == 33
    liveupdate.finish(33)
    assert seen == [(3, 0xBA00, 72), (3, 0xBA01, 72), (33, 0xBA40, 16), (33, 0xBA41, 16), (33, 0xBA42, 8)]
