"""No room, or no write, for metadata: the caller gets the error, nothing is half done, and it is said.

The region's tmpfs is filled by a file beside data/; write errors of the journal are made with the file size
limit of the daemon (a write across it is cut short, one behind it fails with EFBIG).
"""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from guestmemfs_fuse.linux import memory
from tests.cli import Instance
from tests.mount.load_crew import kill, serving_pid
from tests.mount.user_of import user_of

MIB = 1 << 20


def journal_of(instance: Instance) -> Path:
    return max((instance.state_dir / "region" / "metadata").glob("*.gmj"))


def assert_clean(instance: Instance) -> None:
    done = instance.cli.run("fsck", instance.name, "--json", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["clean"]


def create_until_refused(root: Path, most: int = 3000) -> tuple[list[str], int]:
    """Names that were acknowledged, and the errno that ended it."""
    made: list[str] = []
    for length in (200, 50, 0):  # to the last byte, nearly
        for number in range(most):
            name = f"{length}-{number}" + "x" * length
            try:
                os.mkdir(root / name)
            except OSError as error:
                code = error.errno or 0
                break
            made.append(name)
        else:
            raise AssertionError("the metadata never got full")
    return made, code


@contextmanager
def filled(instance: Instance) -> Iterator[None]:
    """Every byte of the region's tmpfs is taken."""
    filler = instance.state_dir / "region" / "filler"
    fd = os.open(filler, os.O_RDWR | os.O_CREAT)
    try:
        step, at = 64 * MIB, 0
        while step >= 4096:
            try:
                memory.fallocate(fd, memory.FALLOC_FL_KEEP_SIZE, at, step)
                at += step
            except OSError as error:
                assert error.errno == errno.ENOSPC, error
                step //= 2
        yield
    finally:
        os.close(fd)
        filler.unlink()


@contextmanager
def limited(pid: int, size_bytes: int) -> Iterator[None]:
    """The process can write no file beyond that size."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        try:
            resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        except ProcessLookupError:
            pass


def test_without_room_for_metadata_callers_get_enospc_and_nothing_is_half_done(instance: Instance) -> None:
    root = instance.mountpoint
    path = root / "vm1"
    path.touch()
    os.truncate(path, 4 * MIB)
    with user_of(path) as user:
        user.write(0, "guest")
        with filled(instance):
            made, code = create_until_refused(root)
            assert code == errno.ENOSPC
            assert sorted(os.listdir(root)) == sorted([*made, "vm1"])
            assert path.stat().st_size == 4 * MIB
            with user_of(path) as other:  # an id is journaled at open, or was before
                assert other.read(0, 5) == "guest"
            assert instance.status()["state"] == "serving"
            assert_clean(instance)
        assert user.read(0, 5) == "guest"
    (root / "again").mkdir()
    os.truncate(path, 6 * MIB)
    assert_clean(instance)
    instance.umount()
    assert_clean(instance)
    instance.remount()
    assert sorted(os.listdir(root)) == sorted([*made, "vm1", "again"])


def test_regression_a_create_is_done_wholly_or_not_at_all(instance: Instance) -> None:
    """A file and its first open were two writes of the journal: a limit between them left the file."""
    pid, answers = instance.daemon_pid, set[bool]()
    for room_bytes in range(20, 140, 8):
        path = instance.mountpoint / f"n{room_bytes}"
        with limited(pid, journal_of(instance).stat().st_size + room_bytes):
            try:
                os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR))
                made = True
            except OSError:
                made = False
        assert (path.name in os.listdir(instance.mountpoint)) == made, room_bytes
        answers.add(made)
    assert answers == {True, False}
    assert_clean(instance)


def test_a_daemon_that_dies_without_room_is_replaced_by_one_that_serves(instance: Instance) -> None:
    root = instance.mountpoint
    path = root / "vm1"
    path.touch()
    os.truncate(path, 4 * MIB)
    with user_of(path) as user, filled(instance):
        made, _ = create_until_refused(root)
        for _ in range(4):  # each start would like to be counted in the journal
            pid = serving_pid(instance.state_dir)
            kill(pid)
            serving_pid(instance.state_dir, not_pid=pid)
            assert sorted(os.listdir(root)) == sorted([*made, "vm1"])
        user.write(0, "guest")
        instance.cli.run("restart", instance.name)
        with pytest.raises(OSError, match="No space"):
            (root / "one-more").mkdir()
        assert user.read(0, 5) == "guest"
    (root / "again").mkdir()
    assert_clean(instance)


@pytest.mark.parametrize("room_bytes", [0, 40])
def test_a_journal_that_cannot_be_written_is_an_error_and_can_be_again(
    instance: Instance, room_bytes: int
) -> None:
    """room_bytes: how much of the frame still gets through (a write cut short), before it fails."""
    root, pid = instance.mountpoint, serving_pid(instance.state_dir)
    (root / "before").mkdir()
    length = journal_of(instance).stat().st_size
    with limited(pid, length + room_bytes):
        for _ in range(3):
            with pytest.raises(OSError, match=r".") as caught:
                (root / "refused").mkdir()
            assert caught.value.errno in (errno.EIO, errno.ENOSPC)
            assert os.listdir(root) == ["before"]
        assert journal_of(instance).stat().st_size == length, "what was written of it is cut back"
        assert_clean(instance)
    (root / "after").mkdir()
    assert instance.status()["read_only"] is None
    kill(pid)
    serving_pid(instance.state_dir, not_pid=pid)
    assert sorted(os.listdir(root)) == ["after", "before"]
    assert_clean(instance)


def test_what_cannot_be_cut_back_makes_it_read_only_and_status_says_so(instance: Instance) -> None:
    root, pid = instance.mountpoint, serving_pid(instance.state_dir)
    path = root / "vm1"
    path.touch()
    os.truncate(path, 4 * MIB)
    journal = journal_of(instance)
    if subprocess.run(["chattr", "+a", journal], capture_output=True).returncode:
        pytest.skip("needs a tmpfs with append-only files (Linux >= 6.6)")
    try:
        with user_of(path) as user, limited(pid, journal.stat().st_size + 40):
            with pytest.raises(OSError, match=r"."):
                (root / "refused").mkdir()
            for _ in range(2):
                with pytest.raises(OSError, match="Read-only") as caught:
                    (root / "refused").mkdir()
                assert caught.value.errno == errno.EROFS
            user.write(0, "goes-on")
            assert os.listdir(root) == ["vm1"]
            status = instance.status()
            assert "cut back" in status["read_only"]
            assert "read-only" in instance.cli.run("status", instance.name).stdout.lower()
            found = instance.cli.run("fsck", instance.name, "--json", check=False)
            assert {each["kind"] for each in json.loads(found.stdout)["problems"]} == {"torn-tail"}
    finally:
        subprocess.run(["chattr", "-a", journal], check=True)
    instance.cli.run("restart", instance.name)
    assert instance.status()["read_only"] is None
    (root / "after").mkdir()
    assert_clean(instance)


def test_a_read_only_state_directory_refuses_to_mount_and_says_what_it_is(instance: Instance) -> None:
    (instance.mountpoint / "d").mkdir()
    instance.umount()
    region = instance.state_dir / "region"
    subprocess.run(["mount", "-o", "remount,ro", region], check=True)
    done = instance.cli.run("mount", instance.mountpoint, "--name", "gm", check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    assert "read-only" in done.stderr.lower(), done.stderr
    assert_clean(instance)
    subprocess.run(["mount", "-o", "remount,rw", region], check=True)
    instance.remount()
    assert os.listdir(instance.mountpoint) == ["d"]
