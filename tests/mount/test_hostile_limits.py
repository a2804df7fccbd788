"""A local user at its limits: bytes of attributes, and a control socket that is not for it."""

from __future__ import annotations

import errno
import os
import random
import signal
import socket
import time
from pathlib import Path

import pytest

from guestmemfs_fuse.core.types import UserLimits
from guestmemfs_fuse.linux import process
from tests.cli import Instance
from tests.mount.hostile import MIB, assert_unharmed, done_by_user, resident_bytes
from tests.mount.load_crew import serving_pid

pytest_plugins = ("tests.mount.hostile_fixtures",)


# -- limits -----------------------------------------------------------------------------------------


def set_patiently(path: str | Path, count: int) -> None:
    """Set an attribute of count bytes. ENOSPC is for a moment only, while the journal is folded."""
    deadline = time.monotonic() + 60
    while True:
        try:
            os.setxattr(path, "user.k", b"v" * count)
            return
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
        assert time.monotonic() < deadline, "no room is ever made"
        time.sleep(0.05)


def exceed_xattr_limit(home: str) -> None:
    """One inode takes 64 KiB, so many inodes are needed for the limit of a user."""
    os.chdir(home)
    limit = UserLimits().max_xattr_bytes
    for number in range(limit // 60_000 + 20):
        os.close(os.open(f"x{number}", os.O_CREAT | os.O_RDWR, 0o600))
        try:
            set_patiently(f"x{number}", 60_000)
        except OSError as error:
            assert error.errno == errno.EDQUOT, error
            os.removexattr("x0", "user.k")
            set_patiently(f"x{number}", 50_000)
            return
    raise AssertionError("there is no limit")


def test_the_limit_on_attribute_bytes_is_edquot_and_root_has_none(instance: Instance, home: Path) -> None:
    pid = serving_pid(instance.state_dir)
    done_by_user(exceed_xattr_limit, str(home), within_s=500)
    (instance.mountpoint / "roots").touch()
    set_patiently(instance.mountpoint / "roots", 60_000)
    assert resident_bytes(pid) < 300 * MIB
    assert_unharmed(instance, pid)


# -- the control socket -----------------------------------------------------------------------------


def test_the_control_socket_is_for_root_only(instance: Instance, home: Path) -> None:
    """Its directory is closed; with the directory open its mode is in the way; with that open, the daemon."""
    path = instance.state_dir / "control.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    assert instance.state_dir.stat().st_mode & 0o777 == 0o700

    def refused(code: int) -> None:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(str(path))
            except OSError as error:
                assert error.errno == code, error
            else:
                raise AssertionError("connected")

    def turned_away() -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(30)
            client.connect(str(path))
            said = b""
            while data := client.recv(4096):
                said += data
            assert b"only root" in said, said

    pid = serving_pid(instance.state_dir)
    done_by_user(refused, errno.EACCES)
    for parent in path.parents:
        if parent.stat().st_mode & 0o005 != 0o005 and parent != Path("/"):
            parent.chmod(0o755)
    done_by_user(refused, errno.EACCES)
    path.chmod(0o666)
    done_by_user(turned_away)
    with pytest.raises(AssertionError, match="1"):
        done_by_user(os.kill, pid, signal.SIGTERM)
    assert process.is_alive(pid)
    assert_unharmed(instance, pid)


def test_rubbish_on_the_control_socket_costs_one_connection(instance: Instance) -> None:
    pid, dice = serving_pid(instance.state_dir), random.Random(4)
    before = len(os.listdir(f"/proc/{pid}/fd"))
    for number in range(60):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(instance.state_dir / "control.sock"))  # waits while its queue is full
            client.settimeout(30)
            rubbish = dice.randbytes(dice.choice((1, 4, 100, 70_000)))
            try:
                client.sendall(rubbish if number % 3 else b"\xff\xff\xff\x7f" + rubbish)
            except OSError:
                pass
    deadline = time.monotonic() + 60
    while len(os.listdir(f"/proc/{pid}/fd")) > before:
        assert time.monotonic() < deadline, "connections are not given back"
        time.sleep(0.05)
    assert_unharmed(instance, pid)
