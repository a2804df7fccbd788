"""What the facts about an instance mean, and how they are found without touching a mount."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from dataclasses import replace

import pytest

from guestmemfs_fuse.cli import daemons, sight
from guestmemfs_fuse.cli.sight import Condition, Sight
from guestmemfs_fuse.handover.last_words import LastWords
from guestmemfs_fuse.handover.pid_file import PidFile
from guestmemfs_fuse.linux import mountinfo
from guestmemfs_fuse.metadata.instance import Instance, Paths
from tests.unit.cli.fakes import DEAD, LOST, RESTARTING, SERVING, STOPPED, a_mount


@pytest.mark.parametrize(
    ("seen", "condition"),
    [
        (SERVING, Condition.SERVING),
        (STOPPED, Condition.STOPPED),
        (DEAD, Condition.DEAD_MOUNT),
        (RESTARTING, Condition.RESTARTING),
        (replace(RESTARTING, last_words=LastWords("given up")), Condition.DEAD_MOUNT),
        (LOST, Condition.LOST),
        (replace(SERVING, mount=None), Condition.SERVING),
    ],
)
def test_facts_and_what_they_mean(seen: Sight, condition: Condition) -> None:
    assert seen.condition is condition


def test_the_lock_tells_whether_a_daemon_lives(paths: Paths) -> None:
    assert not sight.is_locked(paths.lock)
    fd = os.open(paths.lock, os.O_RDWR | os.O_CREAT)
    assert not sight.is_locked(paths.lock)
    fcntl.flock(fd, fcntl.LOCK_EX)
    assert sight.is_locked(paths.lock)
    assert sight.is_locked(paths.lock), "looking did not take it away"
    os.close(fd)
    assert not sight.is_locked(paths.lock)


def test_the_process_behind_a_lock_is_found_in_proc(paths: Paths) -> None:
    fd = os.open(paths.lock, os.O_RDWR | os.O_CREAT)
    fcntl.flock(fd, fcntl.LOCK_EX)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)
        os._exit(0)
    try:
        # The lock belongs to the open file, which the child shares; our own process is left out.
        assert daemons.pid_by_lock(paths.lock) == child
        assert daemons.pid_by_lock(paths.lock + "x") is None
    finally:
        os.close(reader)
        os.close(writer)
        os.waitpid(child, 0)
        os.close(fd)
    assert daemons.pid_by_lock(paths.lock) is None


def test_an_instance_is_looked_at_without_its_mountpoint(
    make_instance: Callable[..., Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = make_instance(mountpoint="/mnt/guests")
    assert sight.look(instance) == LOST
    with open(instance.paths.last_words, "w") as file:
        file.write(str(LastWords("it died")))
    monkeypatch.setattr(mountinfo, "read_mounts", lambda pid="self": [a_mount()])
    locked, done = os.pipe(), os.pipe()
    holder = os.fork()
    if holder == 0:
        PidFile(instance.paths.holder_pid)
        os.write(locked[1], b"!")
        os.read(done[0], 1)
        os._exit(0)
    try:
        os.read(locked[0], 1)
        seen = sight.look(instance)
        assert seen.holder_pid == holder
        assert (seen.mount, seen.has_daemon, seen.has_region) == (a_mount(), False, True)
        assert seen.last_words == LastWords("it died")
    finally:
        os.write(done[1], b"!")
        os.waitpid(holder, 0)
        for fd in locked + done:
            os.close(fd)


def test_other_filesystems_at_the_mountpoint_are_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    strange = replace(a_mount(), fstype="fuse.sshfs")
    monkeypatch.setattr(mountinfo, "read_mounts", lambda pid="self": [strange])
    assert sight.our_mount("/mnt/guests") is None


def test_regression_the_mount_of_another_instance_is_not_this_ones(
    make_instance: Callable[..., Instance], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`umount` of a stopped instance detached the live one that was mounted in its place."""
    instance = make_instance()
    mine = a_mount(instance.config.mountpoint, instance.name)
    monkeypatch.setattr(mountinfo, "read_mounts", lambda pid="self": [mine])
    assert sight.mount_of(instance) == sight.look(instance).mount == mine
    another = replace(mine, source="another")
    monkeypatch.setattr(mountinfo, "read_mounts", lambda pid="self": [another])
    assert sight.mount_of(instance) is sight.look(instance).mount is None


def test_waiting_ends_when_it_holds_or_at_the_deadline() -> None:
    answers = iter([False, False, True])
    assert sight.wait_until(lambda: next(answers), 5)
    assert not sight.wait_until(lambda: False, 0)
