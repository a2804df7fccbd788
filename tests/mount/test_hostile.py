"""A local user who means harm, or is merely excessive: nothing breaks, stalls or grows without bound.

Everything here is done as an unprivileged user in a directory of its own, which is all it can write to.
GUESTMEMFS_HOSTILE_FILES is how many files it puts into one directory (100,000 in the long run).
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from guestmemfs_fuse.core.types import UserLimits
from guestmemfs_fuse.linux import process
from tests.cli import Instance
from tests.mount.load_crew import crew, kill, serving_pid

MIB = 1 << 20
UID = 61234
FILES = int(os.environ.get("GUESTMEMFS_HOSTILE_FILES", "4000"))
SECONDS = float(os.environ.get("GUESTMEMFS_HOSTILE_SECONDS", "4"))
BYTES_PER_FILE = 2500
"""What one file may cost the daemon: inode, name, entry, journal buffers, and an open file's backing id."""

_fork = multiprocessing.get_context("fork")


@pytest.fixture
def home(instance: Instance) -> Path:
    """A directory that belongs to the user; the way to it is open."""
    for parent in instance.mountpoint.parents:
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(0o755)
    home = instance.mountpoint / "home"
    home.mkdir()
    os.chown(home, UID, UID)
    return home


@contextmanager
def as_user(function: Callable[..., object], *args: object) -> Iterator[multiprocessing.Process]:
    """Run it in a process of the unprivileged user; killed at the end if it still runs."""

    def run() -> None:
        os.setgroups([])
        os.setresgid(UID, UID, UID)
        os.setresuid(UID, UID, UID)
        function(*args)

    child: Any = _fork.Process(target=run)
    child.start()
    try:
        yield child
    finally:
        child.kill()
        child.join()


def done_by_user(function: Callable[..., object], *args: object, within_s: float = 300.0) -> None:
    """The same to its end, which must be a good one."""
    with as_user(function, *args) as child:
        child.join(within_s)
        assert child.exitcode == 0, f"{function.__name__}: {child.exitcode}"


def resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def assert_unharmed(instance: Instance, pid: int) -> None:
    """The daemon is the one it was, answers, and nothing is inconsistent."""
    assert serving_pid(instance.state_dir) == pid
    log = (instance.state_dir / "daemon.log").read_text()
    assert "Traceback" not in log, log
    assert instance.cli.run("fsck", instance.name).returncode == 0


# -- names and trees --------------------------------------------------------------------------------


def weird_names() -> list[bytes]:
    dice = random.Random(3)
    allowed = [byte for byte in range(1, 256) if byte != 0x2F]
    names = [bytes([byte]) for byte in allowed if byte != 0x2E]
    names += [
        b"...",
        b"-rf",
        b"\n",
        b"\xff\xfe",
        "é".encode(),
        b"a" * 255,
        b"\x01" * 255,
        b"lost+found",
        b" ",
    ]
    names += [bytes(dice.choices(allowed, k=dice.randrange(2, 256))) for _ in range(200)]
    return sorted(set(names))


def use_weird_names(home: bytes) -> None:
    names = weird_names()
    for name in names:
        os.close(os.open(home + b"/" + name, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
        os.symlink(name, home + b"/.s" + name[:250])
        os.setxattr(home + b"/" + name, b"user." + name[:240].replace(b"\0", b"x"), name)
    assert sorted(name for name in os.listdir(home) if not name.startswith(b".s")) == names
    for name in names:
        assert os.readlink(home + b"/.s" + name[:250]) == name
        os.rename(home + b"/" + name, home + b"/.r" + name[:250])
    for length in (256, 4000):
        try:
            os.mkdir(home + b"/" + b"x" * length)
        except OSError as error:
            assert error.errno == errno.ENAMETOOLONG
        else:
            raise AssertionError(length)


def test_names_of_any_bytes_are_names(instance: Instance, home: Path) -> None:
    pid = serving_pid(instance.state_dir)
    done_by_user(use_weird_names, os.fsencode(home))
    assert "\x1b" not in instance.cli.run("status", instance.name).stdout
    assert len(instance.status()["files"]) == len(weird_names())
    kill(pid)
    pid = serving_pid(instance.state_dir, not_pid=pid)
    assert len(os.listdir(home)) == 2 * len(weird_names())
    assert_unharmed(instance, pid)


def dig(home: str, depth: int) -> None:
    """Directories in each other, deeper than any path can say, and back up again."""
    os.chdir(home)
    for _ in range(depth):
        os.mkdir("d" * 200)
        os.chdir("d" * 200)
    os.symlink("x" * 4000, "deep")
    for _ in range(depth // 2):
        os.chdir("..")
    os.rename("d" * 200, "moved")
    try:
        os.rename("../" + "d" * 200, "moved/loop")
    except OSError as error:
        assert error.errno in (errno.EINVAL, errno.EBUSY), error
    else:
        raise AssertionError("a directory went into itself")


def test_trees_deeper_than_any_path(instance: Instance, home: Path) -> None:
    pid = serving_pid(instance.state_dir)
    done_by_user(dig, str(home), 300)
    assert_unharmed(instance, pid)
    done = subprocess.run(["rm", "-rf", home], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-300:]


def fill_directory(home: str, count: int) -> None:
    os.chdir(home)
    for number in range(count):
        os.close(os.open(f"file-{number:06}", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))


def test_one_directory_with_very_many_files(instance: Instance, home: Path) -> None:
    """Others are served meanwhile, the daemon grows by a bounded amount per file, and listing is linear."""
    pid = serving_pid(instance.state_dir)
    before = resident_bytes(pid)
    (instance.mountpoint / "mine").mkdir()
    slowest_s = 0.0
    with as_user(fill_directory, str(home), FILES) as child:
        number = 0
        while child.is_alive():
            began_s = time.monotonic()
            (instance.mountpoint / "mine" / f"{number}").mkdir()
            slowest_s = max(slowest_s, time.monotonic() - began_s)
            number += 1
            time.sleep(0.01)
        assert child.exitcode == 0
    assert number > 3
    assert slowest_s < 20, "somebody else's call waited for the whole of it"
    assert len(os.listdir(home)) == FILES
    grown = resident_bytes(pid) - before
    assert grown < 24 * MIB + FILES * BYTES_PER_FILE, grown
    kill(pid)
    pid = serving_pid(instance.state_dir, not_pid=pid)
    assert len(os.listdir(home)) == FILES
    assert_unharmed(instance, pid)
    removed = subprocess.run([sys.executable, "-c", f"import shutil; shutil.rmtree({str(home)!r})"])
    assert removed.returncode == 0


# -- calls without end ------------------------------------------------------------------------------


def opens_forever(home: str) -> None:
    os.chdir(home)
    os.close(os.open("f", os.O_CREAT | os.O_RDWR, 0o600))
    while True:
        fds = [os.open("f", os.O_RDWR) for _ in range(200)]
        for fd in fds:
            os.close(fd)


def xattrs_forever(home: str) -> None:
    os.chdir(home)
    os.close(os.open("x", os.O_CREAT | os.O_RDWR, 0o600))
    number = 0
    while True:
        number += 1
        try:
            os.setxattr("x", "user.k", bytes([number % 256]) * 60_000)
        except OSError as error:
            assert error.errno in (errno.ENOSPC, errno.EDQUOT), error


def truncates_forever(home: str) -> None:
    os.chdir(home)
    os.close(os.open("t", os.O_CREAT | os.O_RDWR, 0o600))
    while True:
        for size in (40 * MIB, 1, 0):
            os.truncate("t", size)


def refused_forever(home: str) -> None:
    """Everything it may not do, as fast as it can."""
    os.chdir(home)
    calls: list[Callable[[], object]] = [
        lambda: os.truncate("..", 0),
        lambda: os.chown(".", 0, 0),
        lambda: os.mkdir("../not-mine"),
        lambda: os.setxattr(".", "trusted.x", b"1"),
        lambda: os.setxattr(".", "security.x", b"1"),
        lambda: os.truncate("f" * 300, 0),
        lambda: os.link("absent", "b"),
        lambda: os.mknod("dev", 0o20600, os.makedev(1, 3)),
        lambda: os.read(os.open(".", os.O_RDONLY), 10),
    ]
    while True:
        for call in calls:
            try:
                call()
            except OSError:
                pass
            else:
                raise AssertionError("that should have been refused")
        os.closerange(3, 256)


@pytest.mark.parametrize("attack", [opens_forever, xattrs_forever, truncates_forever, refused_forever])
def test_calls_in_a_loop_neither_stall_others_nor_bloat_the_daemon(
    instance: Instance, home: Path, attack: Callable[[str], None]
) -> None:
    pid = serving_pid(instance.state_dir)
    with as_user(attack, str(home)) as one, as_user(attack, str(home)):
        time.sleep(0.5)
        before, calls, slowest_s = resident_bytes(pid), 0, 0.0
        deadline = time.monotonic() + SECONDS
        while time.monotonic() < deadline or calls < 20:
            began_s = time.monotonic()
            path = instance.mountpoint / f"mine-{calls}"
            path.mkdir()
            path.rmdir()
            slowest_s, calls = max(slowest_s, time.monotonic() - began_s), calls + 1
        assert one.exitcode in (None, 0), "the attack itself went wrong"
    assert slowest_s < 20
    assert resident_bytes(pid) - before < 48 * MIB
    assert_unharmed(instance, pid)


def test_callers_killed_in_the_middle_of_calls_leave_nothing_half_done(
    instance: Instance, home: Path
) -> None:
    """SIGKILL at random moments of creating and allocating: all is whole, memory is given back."""

    def busy(seed: int) -> None:
        os.chdir(home)
        dice = random.Random(seed)
        while True:
            name = f"v{dice.randrange(20)}"
            fd = os.open(name, os.O_CREAT | os.O_RDWR, 0o600)
            try:
                os.ftruncate(fd, dice.choice((0, 2, 32)) * MIB)
                os.rename(name, f"v{dice.randrange(20)}")
                os.unlink(f"v{dice.randrange(20)}")
            except OSError as error:
                assert error.errno in (errno.ENOSPC, errno.ENOENT, errno.EBUSY), error
            os.close(fd)

    pid, dice = serving_pid(instance.state_dir), random.Random(9)
    deadline, killed = time.monotonic() + SECONDS, 0
    while time.monotonic() < deadline or killed < 15:
        with as_user(busy, killed) as child:
            time.sleep(dice.random() * 0.1)
            assert child.is_alive(), child.exitcode
        killed += 1
    assert_unharmed(instance, pid)
    for path in home.iterdir():
        path.unlink()
    deadline = time.monotonic() + 20
    while (status := instance.status())["region"]["used_bytes"] or status["counters"]["orphans"]:
        assert time.monotonic() < deadline, status
    with crew(instance.mountpoint, 1, 3) as load:
        load.stop()


# -- limits -----------------------------------------------------------------------------------------


def exceed_xattr_limit(home: str) -> None:
    """One inode takes 64 KiB, so many inodes are needed for the limit of a user."""
    os.chdir(home)
    limit = UserLimits().max_xattr_bytes
    for number in range(limit // 60_000 + 20):
        os.close(os.open(f"x{number}", os.O_CREAT | os.O_RDWR, 0o600))
        for _ in range(200):
            try:
                os.setxattr(f"x{number}", "user.k", b"v" * 60_000)
            except OSError as error:
                if error.errno == errno.EDQUOT:
                    os.removexattr("x0", "user.k")
                    os.setxattr(f"x{number}", "user.k", b"v" * 50_000)
                    return
                assert error.errno == errno.ENOSPC, error
                time.sleep(0.05)  # the journal is being folded
            else:
                break
        else:
            raise AssertionError("no room is ever made")
    raise AssertionError("there is no limit")


def test_the_limit_on_attribute_bytes_is_edquot_and_root_has_none(instance: Instance, home: Path) -> None:
    pid = serving_pid(instance.state_dir)
    done_by_user(exceed_xattr_limit, str(home), within_s=500)
    (instance.mountpoint / "roots").touch()
    os.setxattr(instance.mountpoint / "roots", "user.k", b"v" * 60_000)
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
