"""A local user who means harm, or is merely excessive: nothing breaks, stalls or grows without bound.

Everything here is done as an unprivileged user in a directory of its own, which is all it can write to.
GUESTMEMFS_HOSTILE_FILES is how many files it puts into one directory (100,000 in the long run).
"""

from __future__ import annotations

import errno
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli import Instance
from tests.mount.hostile import MIB, as_user, assert_unharmed, done_by_user, resident_bytes
from tests.mount.load_crew import crew, kill, serving_pid

FILES = int(os.environ.get("GUESTMEMFS_HOSTILE_FILES", "4000"))
SECONDS = float(os.environ.get("GUESTMEMFS_HOSTILE_SECONDS", "4"))
BYTES_PER_FILE = 2500
"""What one file may cost the daemon: inode, name, entry, journal buffers, and an open file's backing id."""

pytest_plugins = ("tests.mount.hostile_fixtures",)


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
