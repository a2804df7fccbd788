"""`umount`: what it refuses, what it waits for, and how dead mounts go."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import Result

from guestmemfs_fuse.cli import busy, sight, unmounting
from guestmemfs_fuse.cli.busy import Use
from guestmemfs_fuse.core.errors import ExitCode
from guestmemfs_fuse.linux import mount, mountinfo
from guestmemfs_fuse.metadata.instance import Instance
from tests.unit.cli.fakes import DEAD, SERVING, STOPPED, FakeDaemon, a_mount

Run = Callable[..., Result]
See = Callable[..., None]


@pytest.fixture
def umounts(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """What umount2(2) was called with; set `umounts.append` to fail by monkeypatching again."""
    calls: list[tuple[str, int]] = []
    monkeypatch.setattr(mount, "umount", lambda path, flags: calls.append((path, flags)))
    monkeypatch.setattr(mountinfo, "read_mounts", lambda pid="self": [a_mount()])
    return calls


@pytest.fixture(autouse=True)
def instance(make_instance: Callable[..., Instance], daemon: FakeDaemon) -> Instance:
    daemon.serves()
    return make_instance()


@pytest.fixture
def busy_mount(monkeypatch: pytest.MonkeyPatch, umounts: list[tuple[str, int]]) -> None:
    def refuse(path: str, flags: int) -> None:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)

    monkeypatch.setattr(mount, "umount", refuse)


def test_it_unmounts_by_name_or_mountpoint_and_keeps_the_region(
    run: Run, see: See, umounts: list[tuple[str, int]], instance: Instance
) -> None:
    see(SERVING)
    for target in ("guests", "/mnt/guests"):
        done = run("umount", target)
        assert (done.exit_code, done.stderr) == (0, "")
        assert "its region stays" in done.stdout
    assert umounts == [("/mnt/guests", mount.UMOUNT_NOFOLLOW)] * 2
    assert os.path.exists(instance.paths.config)


def test_what_is_not_mounted_is_said_so(run: Run, see: See, umounts: list[tuple[str, int]]) -> None:
    see(STOPPED)
    done = run("umount", "guests")
    assert done.exit_code == ExitCode.FAILED
    assert done.stderr.startswith("error: instance guests is not mounted\n")
    assert umounts == []


def test_what_is_unknown_is_not_found(run: Run) -> None:
    assert run("umount", "nobody").exit_code == ExitCode.NOT_FOUND


def test_a_dead_mount_is_detached(run: Run, see: See, umounts: list[tuple[str, int]]) -> None:
    see(DEAD)
    done = run("umount", "guests")
    assert done.exit_code == 0
    assert "was a dead mount: detached" in done.stderr
    assert umounts == [("/mnt/guests", mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)]


def test_who_keeps_it_busy_is_said(
    run: Run, see: See, busy_mount: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    see(SERVING)
    uses = [Use(7, "qemu", "maps 4 GiB"), Use(9, "bash", "works in it")]
    monkeypatch.setattr(busy, "uses_of_mount", lambda entry: uses)
    done = run("umount", "guests")
    assert done.exit_code == ExitCode.BUSY
    assert "error: /mnt/guests is busy: qemu[7] maps 4 GiB, bash[9] works in it\n" in done.stderr


def test_a_mount_inside_is_named(
    run: Run, see: See, busy_mount: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    see(SERVING)
    inside = replace(a_mount("/mnt/guests/sub"), mount_id=100, parent_id=99, minor=78)
    monkeypatch.setattr(mountinfo, "read_mounts", lambda pid="self": [a_mount(), inside])
    done = run("umount", "guests")
    assert done.exit_code == ExitCode.BUSY
    assert "/mnt/guests/sub is mounted inside" in done.stderr


def test_a_second_mount_of_the_same_filesystem_is_named(
    run: Run, see: See, umounts: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    see(SERVING)
    bound = replace(a_mount("/srv/bound"), mount_id=100)
    monkeypatch.setattr(mountinfo, "read_mounts", lambda pid="self": [a_mount(), bound])
    done = run("umount", "guests")
    assert done.exit_code == ExitCode.BUSY
    assert "mounted also at /srv/bound" in done.stderr
    assert umounts == []


def test_a_daemon_that_stays_is_an_error_that_names_it(
    run: Run, see: See, umounts: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    see(SERVING)
    monkeypatch.setattr(unmounting, "GONE_WITHIN_S", 0.0)
    monkeypatch.setattr(unmounting, "wait_daemon_gone", lambda instance: False)
    monkeypatch.setattr(unmounting.daemons, "pid_by_lock", lambda path: 41)
    done = run("umount", "guests")
    assert done.exit_code == ExitCode.DAEMON
    assert "its daemon (pid 41) does not end" in done.stderr


def test_other_errors_of_the_kernel_come_through(
    run: Run, see: See, umounts: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str, flags: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", path)

    monkeypatch.setattr(mount, "umount", refuse)
    see(SERVING)
    done = run("umount", "guests")
    assert (done.exit_code, done.stderr) == (1, "error: /mnt/guests: Operation not permitted\n")


def test_a_process_that_stands_in_the_mount_is_found_but_not_ourselves(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mountinfo, "read_mounts", lambda pid="self": [])
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as other:
        (use,) = busy.uses_of_mount(a_mount(str(tmp_path)))
        assert (use.pid, use.what) == (other.pid, "works in it")
        assert busy.uses_of_mount(a_mount(f"{tmp_path}x")) == []
        other.communicate()


def test_long_lists_of_users_are_cut() -> None:
    uses = [Use(pid, "qemu", "maps 1 GiB") for pid in range(1, 9)]
    assert busy.described(uses).endswith("qemu[5] maps 1 GiB, and 3 more")


def test_the_condition_words_are_stable() -> None:
    assert [each.value for each in sight.Condition] == [
        "serving",
        "frozen",
        "stopped",
        "silent",
        "restarting",
        "dead-mount",
        "lost",
        "broken",
    ]
