"""A unit that starts with the connection of a mount that is gone lets go of it, here and in the store."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from guestmemfs_fuse.cli import unit_start, unit_state
from guestmemfs_fuse.handover import fdstore


@pytest.fixture
def store(tmp_path: Path) -> Iterator[socket.socket]:
    """Where systemd would listen."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(10)
        yield listening


def given(monkeypatch: pytest.MonkeyPatch, first: int, *names: str) -> dict[str, str]:
    """The environment of a process that got descriptors from `first` on."""
    monkeypatch.setattr(fdstore, "FIRST_FD", first)
    return {
        "LISTEN_PID": str(os.getpid()),
        "LISTEN_FDS": str(len(names)),
        "LISTEN_FDNAMES": ":".join(names),
    }


def test_a_stale_connection_is_closed_and_what_stands_behind_it_keeps_its_number(
    monkeypatch: pytest.MonkeyPatch, store: socket.socket, tmp_path: Path
) -> None:
    (tmp_path / "connection").write_text("stale")
    (tmp_path / "memory").write_text("kept")
    first = 200
    for number, name in enumerate(("connection", "memory"), first):
        fd = os.open(tmp_path / name, os.O_RDWR)
        os.dup2(fd, number)
        os.close(fd)
    environ = given(monkeypatch, first, "fuse", "region-ino-2")
    environ["NOTIFY_SOCKET"] = str(tmp_path / "notify")
    try:
        unit_start.drop_connection(environ)
        assert store.recv(4096).split(b"\n")[:2] == [b"FDSTOREREMOVE=1", b"FDNAME=fuse"]
        assert os.readlink(f"/proc/self/fd/{first}") == os.devnull
        received = dict(fdstore.parse_listen_fds(environ, os.getpid()))
        assert "fuse" not in received
        assert os.read(received["region-ino-2"], 9) == b"kept"
    finally:
        os.close(first)
        os.close(first + 1)


def test_without_one_nothing_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    environ = given(monkeypatch, 200, "region-ino-2")
    before = dict(environ)
    unit_start.drop_connection(environ)
    assert environ == before


def test_a_systemctl_of_ours_does_not_speak_for_the_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/run/systemd/notify")
    seen = unit_state.asked("env", timeout_s=10).stdout
    assert "NOTIFY_SOCKET" not in seen and "PATH=" in seen
