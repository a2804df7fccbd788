"""`serve --stop`, which `systemctl stop` runs: what is in use is detached, and nobody waits for ever.

This host's systemd is not asked (there is none, or no unit of ours): the daemon has a holder here.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from guestmemfs_fuse.cli.claim import claimed
from guestmemfs_fuse.linux import fuse_connection, process
from guestmemfs_fuse.linux import mount as kernel
from tests.cli import Guestmemfs, Instance
from tests.guest.rig import wait_until

PATIENCE_S = 30.0
SOON_S = 15.0
"""Less than a command waits for a daemon that does not end (unmounting.GONE_WITHIN_S)."""


def stop(instance: Instance, monkeypatch: pytest.MonkeyPatch) -> str:
    """What ExecStop= does, and says."""
    monkeypatch.setenv("MAINPID", str(instance.daemon_pid))
    began = time.monotonic()
    done = instance.cli.run("serve", "--stop", instance.name)
    assert time.monotonic() - began < SOON_S
    return done.stderr


def is_stopped(instance: Instance) -> bool:
    return bool(instance.status()["state"] == "stopped")


def test_regression_open_files_fail_and_mapped_memory_stays(
    guestmemfs: Guestmemfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where fusectl was not mounted calls hung, and systemd kept the connection of a mount that was gone."""
    instance = guestmemfs.mount()
    fd = os.open(instance.mountpoint / "ram", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 4 << 20)
    with mmap.mmap(fd, 4 << 20) as memory:
        memory[:5] = b"guest"
        said = stop(instance, monkeypatch)
        assert "is busy" in said and "what is mapped stays mapped" in said
        with pytest.raises(OSError) as refused:
            os.fstatvfs(fd)
        assert refused.value.errno == errno.ENOTCONN
        memory[5:8] = b"ram"
        assert memory[:8] == b"guestram"
    os.close(fd)
    assert is_stopped(instance)
    instance.remount()
    assert (instance.mountpoint / "ram").stat().st_size == 4 << 20


@contextlib.contextmanager
def namespace_of_its_own() -> Iterator[int]:
    """A process with a copy of all mounts that follows no change, as a container has it; its pid."""
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c", "echo; exec sleep 1000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as child:
        try:
            assert child.stdout is not None and child.stdout.readline() == b"\n"
            yield child.pid
        finally:
            child.kill()


def test_regression_a_mount_in_another_namespace_does_not_keep_the_daemon(
    guestmemfs: Guestmemfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = guestmemfs.mount()
    with namespace_of_its_own() as pid:
        stop(instance, monkeypatch)
        assert is_stopped(instance)
        with pytest.raises(OSError) as refused:
            os.listdir(f"/proc/{pid}/root{instance.mountpoint}")
        assert refused.value.errno == errno.ENOTCONN


def test_regression_a_second_mount_of_it_does_not_keep_the_daemon(
    guestmemfs: Guestmemfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = guestmemfs.mount()
    bound = guestmemfs.directory / "bound"
    bound.mkdir()
    subprocess.run(["mount", "--bind", instance.mountpoint, bound], check=True)
    try:
        assert f"is mounted also at {bound}" in stop(instance, monkeypatch)
        assert is_stopped(instance)
    finally:
        kernel.umount(str(bound), kernel.MNT_DETACH)


def test_regression_a_command_that_does_not_end_does_not_keep_the_mount(
    guestmemfs: Guestmemfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After twenty seconds the stop failed: the daemon went, and its mount stayed without one."""
    instance = guestmemfs.mount()
    (instance.mountpoint / "kept").touch()
    with claimed(str(instance.state_dir)):
        said = stop(instance, monkeypatch)
        assert "another guestmemfs command is at work" in said and "not waited for" in said
        assert is_stopped(instance)
    instance.remount()
    assert os.listdir(instance.mountpoint) == ["kept"]
    assert not instance.problems()


def test_a_stop_during_a_restart_that_hangs_is_a_stop_and_the_restart_says_so(
    guestmemfs: Guestmemfs, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = guestmemfs.mount()
    daemon_pid = instance.daemon_pid
    with guestmemfs.start("restart", instance.name) as restart:
        assert wait_until(lambda: bool(process.children(daemon_pid)), PATIENCE_S)
        (successor,) = process.children(daemon_pid)
        os.kill(successor, signal.SIGSTOP)
        stop(instance, monkeypatch)
        assert restart.communicate(timeout=PATIENCE_S)[1] == (
            "error: instance gm was unmounted meanwhile\nhint: `guestmemfs status gm` shows it\n"
        )
    assert is_stopped(instance)
    assert not os.path.exists(f"/proc/{successor}")


def test_an_aborter_of_a_connection_that_ended_does_nothing(guestmemfs: Guestmemfs) -> None:
    """Its number may be another one's by then."""
    instance = guestmemfs.mount()
    number = os.minor(instance.mountpoint.stat().st_dev)
    with fuse_connection.aborter(number) as abort:
        instance.umount()
        assert wait_until(lambda: is_stopped(instance), PATIENCE_S)
        abort()
    with pytest.raises(FileNotFoundError), fuse_connection.aborter(1 << 19):
        pass
