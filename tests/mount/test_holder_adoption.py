"""A daemon whose holder was killed gets another one: what that holder keeps, starts, and leaves alone."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from guestmemfs_fuse.core.errors import DaemonError
from guestmemfs_fuse.handover import launch
from guestmemfs_fuse.linux import process
from tests.mount.holder_stage import DEADLINE_S, Stage, memfds_of, until

pytest_plugins = ("tests.mount.holder_fixtures",)

BOTH = ["fuse", "region-1"]


def orphaned(stage: Stage) -> int:
    """Start a holder with its daemon and kill the holder; returns the daemon's pid."""
    holder = stage.start()
    pid = int(stage.await_start(1)["pid"])
    stage.kill(holder)
    until(lambda: not process.is_alive(holder), "the holder is dead")
    assert stage.holder() is None
    return pid


def adopt(stage: Stage, pid: int, entrust: Callable[[], object] | None = None) -> int:
    def give(log: str, notify_socket: str) -> None:
        # Both are the new holder's.
        assert os.readlink(log).startswith("pipe:")
        assert os.path.samefile(notify_socket, stage.state_dir / "notify.sock")
        stage.kill(pid, signal.SIGHUP) if entrust is None else entrust()

    return launch.adopt_daemon(str(stage.state_dir), stage.argv, pid, give)


def test_an_adopted_daemon_that_is_killed_comes_back_with_the_same_descriptors(stage: Stage) -> None:
    pid = orphaned(stage)
    holder = adopt(stage, pid)
    assert stage.holder() == holder
    assert memfds_of(holder) == BOTH
    assert process.is_alive(pid), "nothing happened to it"
    stage.kill(pid)
    second = stage.await_start(2)
    assert second["content"] == stage.starts()[0]["content"]
    assert second["ppid"] == holder
    assert f"daemon {pid} ended, and nobody saw how" in stage.log()
    stage.kill(second["pid"])
    assert stage.await_start(3)["content"] == second["content"]
    assert f"daemon {second['pid']} was killed by signal 9" in stage.log(), "a child again"


def test_the_successor_of_an_adopted_daemon_is_watched(stage: Stage) -> None:
    pid = orphaned(stage)
    adopt(stage, pid)
    stage.kill(pid, signal.SIGUSR1)
    second = stage.await_start(2)
    until(lambda: not process.is_alive(pid), "the predecessor ended")
    stage.kill(second["pid"])
    assert stage.await_start(3)["content"] == second["content"]


def test_an_adopted_daemon_that_stops_leaves_its_memory_with_the_holder(stage: Stage) -> None:
    pid = orphaned(stage)
    holder = adopt(stage, pid)
    stage.kill(pid, signal.SIGTERM)
    until(lambda: memfds_of(holder) == ["region-1"], "the mount's descriptor is dropped")
    assert len(stage.starts()) == 1
    assert stage.start() == holder
    assert stage.await_start(2)["content"]["region-1"] == stage.starts()[0]["content"]["region-1"]


def test_an_adoption_that_is_called_off_leaves_the_daemon_alone(stage: Stage) -> None:
    pid = orphaned(stage)

    def refuse() -> None:
        raise DaemonError("the daemon does not answer")

    with pytest.raises(DaemonError, match="does not answer"):
        adopt(stage, pid, refuse)
    assert launch.wait_holder_gone(str(stage.state_dir), DEADLINE_S)
    assert process.is_alive(pid)
    assert memfds_of(adopt(stage, pid)) == BOTH, "the next one works"


@pytest.mark.parametrize("given", [False, True], ids=["nothing", "everything"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_regression_an_adoption_whose_command_is_killed_leaves_no_holder(
    stage: Stage, number: int, given: bool
) -> None:
    """A holder that has nothing would pass for one that has everything: nobody gives the daemon another."""
    stage.behave("never ready")
    pid = orphaned(stage)
    reader, writer = os.pipe()

    def stop_there() -> None:
        if given:
            stage.kill(pid, signal.SIGHUP)
            until(lambda: memfds_of(stage.holder() or 0) == BOTH, "everything was given")
        os.write(writer, b"!")
        signal.pause()

    command = os.fork()
    if command == 0:
        try:
            adopt(stage, pid, stop_there)
        finally:
            os._exit(1)
    os.close(writer)
    with open(reader, "rb") as begun:
        assert begun.read(1) == b"!", "it is being adopted"
    os.kill(command, number)
    os.waitpid(command, 0)
    assert launch.wait_holder_gone(str(stage.state_dir), DEADLINE_S)
    assert process.is_alive(pid)
    stage.behave("")
    assert stage.starts()[0]["pid"] == pid and len(stage.starts()) == 1


def test_a_daemon_that_is_dead_is_not_adopted(stage: Stage) -> None:
    pid = orphaned(stage)
    stage.kill(pid)
    until(lambda: not Path(f"/proc/{pid}").exists(), "it is gone")
    with pytest.raises(DaemonError, match=f"daemon {pid} cannot be adopted: No such process"):
        adopt(stage, pid)
    assert launch.wait_holder_gone(str(stage.state_dir), DEADLINE_S)
    assert not {"holder.pid", "notify.sock"} & set(os.listdir(stage.state_dir))


def test_memory_outlives_a_daemon_that_dies_while_it_is_adopted(stage: Stage) -> None:
    """The new holder may be the only one who has it by then."""
    stage.behave("never ready")
    pid = orphaned(stage)

    def give_and_die() -> None:
        stage.kill(pid, signal.SIGHUP)
        until(lambda: memfds_of(stage.holder() or 0) == BOTH, "everything was given")
        stage.kill(pid)

    with pytest.raises(DaemonError, match="ended, and nobody saw how"):
        adopt(stage, pid, give_and_die)
    holder = stage.holder()
    assert holder and memfds_of(holder) == ["region-1"]
    stage.behave("")
    assert stage.start() == holder
    assert stage.await_start(2)["content"]["region-1"] == stage.starts()[0]["content"]["region-1"]


def test_a_daemon_that_has_a_holder_is_not_adopted_by_another(stage: Stage) -> None:
    holder = stage.start()
    pid = stage.await_start(1)["pid"]
    with pytest.raises(DaemonError, match="another one is there"):
        adopt(stage, pid)
    assert stage.holder() == holder and process.is_alive(pid)
