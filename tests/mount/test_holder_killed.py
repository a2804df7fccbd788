"""The holder is killed, and only it: what is said, what goes on, and how an instance gets another one."""

from __future__ import annotations

import mmap
import os
import signal

import pytest

from guestmemfs_fuse.core.errors import ExitCode
from guestmemfs_fuse.linux import process
from tests.cli import Guestmemfs, Instance
from tests.guest.measure import checksum, write_pattern
from tests.guest.rig import wait_until

MIB = 1 << 20
SOON_S = 20.0


@pytest.fixture(params=["tmpfs", "memfd"])
def abandoned(guestmemfs: Guestmemfs, request: pytest.FixtureRequest) -> Instance:
    """An instance with 16 MiB in `ram`, whose holder was killed."""
    made = guestmemfs.mount("left", "--region", request.param)
    write_pattern(made.mountpoint / "ram", 16)
    kill_holder(made)
    return made


def kill_holder(instance: Instance) -> None:
    os.kill(instance.status()["holder_pid"], signal.SIGKILL)
    assert wait_until(lambda: instance.status()["holder_pid"] is None, SOON_S)


def serves_as(instance: Instance, generation: int) -> bool:
    status = instance.status()
    return bool((status["state"], status["generation"]) == ("serving", generation))


def test_restart_gives_it_another_holder_and_a_sigkill_costs_nothing_again(abandoned: Instance) -> None:
    path = abandoned.mountpoint / "ram"
    before = checksum(path)
    assert f"`guestmemfs restart {abandoned.name}`" in abandoned.cli.json("list")[0]["advice"]
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 16 * MIB) as mapping:
        done = abandoned.cli.run("restart", abandoned.name)
        assert "its holder was killed: another one takes its place" in done.stderr
        status = abandoned.status()
        assert (status["generation"], status.get("advice")) == (2, None)
        assert process.is_alive(status["holder_pid"])
        os.kill(status["daemon_pid"], signal.SIGKILL)
        write_pattern(abandoned.mountpoint / "more", 4)
        assert wait_until(lambda: serves_as(abandoned, 3), SOON_S)
        os.fstat(file.fileno())
        mapping[0:1] = mapping[0:1]
    assert checksum(path) == before
    log = abandoned.state_dir / "daemon.log"
    for generation in (2, 3):
        line = f"serving {abandoned.mountpoint}, generation {generation}"
        # The holder writes it down when it gets to it, the daemon answers meanwhile.
        assert wait_until(lambda: line in log.read_text(), SOON_S), "the log goes on"  # noqa: B023
    abandoned.umount()
    abandoned.remount()
    assert checksum(path) == before
    assert abandoned.cli.run("fsck", abandoned.name).returncode == 0


def test_it_can_lose_its_holder_again_and_again(abandoned: Instance) -> None:
    for generation in (2, 3, 4):
        abandoned.cli.run("restart", abandoned.name)
        assert serves_as(abandoned, generation)
        kill_holder(abandoned)
    abandoned.cli.run("restart", abandoned.name)
    (abandoned.mountpoint / "made").touch()


def test_restart_does_not_kill_a_daemon_that_hangs_and_has_no_holder(abandoned: Instance) -> None:
    """Nobody would start another, and of a memfd region it has the only copy."""
    pid = abandoned.daemon_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        refused = abandoned.cli.run("restart", abandoned.name, check=False)
    finally:
        os.kill(pid, signal.SIGCONT)
    assert refused.returncode == ExitCode.DAEMON
    assert "does not answer, and nobody would start another" in refused.stderr
    assert process.is_alive(pid)
    abandoned.cli.run("restart", abandoned.name)
    assert serves_as(abandoned, 2)


def test_a_holder_whose_socket_has_a_long_path_is_replaced_too(guestmemfs: Guestmemfs) -> None:
    """NOTIFY_SOCKET goes through a descriptor of the holder's then: it is another one after this."""
    made = guestmemfs.mount("far", "--state-dir", str(guestmemfs.directory / ("d" * 150)))
    kill_holder(made)
    made.cli.run("restart", made.name)
    os.kill(made.daemon_pid, signal.SIGKILL)
    (made.mountpoint / "made").touch()
    assert wait_until(lambda: serves_as(made, 3), SOON_S)
