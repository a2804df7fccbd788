"""Starts of a holder that fail, and corners of those that do not."""

from __future__ import annotations

import gc
import os
import re
import signal
from pathlib import Path

import pytest

from guestmemfs_fuse.core.errors import DaemonError, ExitCode, OutOfMemoryError
from guestmemfs_fuse.handover import launch
from guestmemfs_fuse.handover.restart_policy import ABORT_GRACE_S
from guestmemfs_fuse.linux import process
from guestmemfs_fuse.linux.patience import patient
from tests.mount.holder_stage import DEADLINE_S, Stage, memfds_of, until

pytest_plugins = ("tests.mount.holder_fixtures",)


# -- starts that fail ------------------------------------------------------------------------------------


def nothing_left(stage: Stage) -> None:
    assert stage.holder() is None
    assert not {"holder.pid", "notify.sock"} & set(os.listdir(stage.state_dir))


def test_a_daemon_that_refuses_is_heard_in_its_own_words(stage: Stage) -> None:
    stage.behave("refuse")
    with pytest.raises(OutOfMemoryError, match="4 GiB wanted") as caught:
        stage.start()
    assert caught.value.hint == "ask for less"
    assert caught.value.exit_code == ExitCode.NO_MEMORY
    assert caught.value.__notes__ == ["a line in the log"]
    nothing_left(stage)


def test_a_daemon_that_crashes_at_once_is_not_tried_again(stage: Stage) -> None:
    stage.behave("crash")
    with pytest.raises(DaemonError, match="exited with status 3: line before the crash"):
        stage.start()
    assert stage.log().count("line before the crash") == 1
    nothing_left(stage)


def test_a_daemon_that_hangs_is_ended_after_the_timeout(stage: Stage) -> None:
    stage.behave("hang")
    with pytest.raises(DaemonError, match=r"was not ready within 0\.7 s"):
        stage.start(timeout_s=0.7)
    nothing_left(stage)


def test_regression_a_daemon_whose_holder_is_killed_before_it_is_ready_is_ended(stage: Stage) -> None:
    """One that had said all but READY served on, of a mount that had failed."""
    stage.behave("hang")

    def kill_holder() -> None:
        until(lambda: "hanging" in stage.log(), "it hangs")
        stage.kill(stage.holder() or 0)

    with pytest.raises(DaemonError, match="ended without a word"):
        launch.start_daemon(str(stage.state_dir), stage.argv, DEADLINE_S, meanwhile=kill_holder)
    started = re.search(r"daemon (\d+) started", stage.log())
    assert started and not process.is_alive(int(started[1]))


def test_regression_a_daemon_that_hangs_is_ended_within_the_ten_seconds_that_are_promised() -> None:
    """The ten seconds were for getting ready; ending it came on top."""
    assert launch.READY_TIMEOUT_S / patient(1.0) + ABORT_GRACE_S < 10


def test_a_command_that_does_not_exist_is_said_so(stage: Stage) -> None:
    with pytest.raises(DaemonError, match=r"cannot execute /nowhere/python: .*No such file"):
        launch.start_daemon(str(stage.state_dir), ["/nowhere/python"], DEADLINE_S)
    nothing_left(stage)


def test_a_state_directory_that_does_not_exist_is_said_so(stage: Stage) -> None:
    with pytest.raises(DaemonError, match=r"No such file or directory \(.*/missing/holder.pid\)"):
        launch.spawn_holder(str(stage.state_dir / "missing"), stage.argv, DEADLINE_S)


def test_a_failed_start_of_an_old_holder_keeps_its_memory(stage: Stage) -> None:
    holder = stage.start()
    first = stage.await_start(1)
    stage.kill(first["pid"], signal.SIGTERM)
    until(lambda: memfds_of(holder) == ["region-1"], "stopped")
    for behaviour in ("refuse", "hang"):
        stage.behave(behaviour)
        with pytest.raises((OutOfMemoryError, DaemonError)):
            stage.start(timeout_s=0.7)
        assert stage.holder() == holder
        assert memfds_of(holder) == ["region-1"]
    stage.behave("")
    assert stage.start() == holder
    assert stage.await_start(2)["content"]["region-1"] == first["content"]["region-1"]


def test_a_second_daemon_or_holder_is_refused(stage: Stage) -> None:
    holder = stage.start()
    with pytest.raises(DaemonError, match="a daemon is running already"):
        stage.start()
    with pytest.raises(DaemonError, match=r"the holder cannot start: another one is there \(.*/holder.pid\)"):
        launch.spawn_holder(str(stage.state_dir), stage.argv, DEADLINE_S)
    assert stage.holder() == holder
    assert process.is_alive(stage.await_start(1)["pid"])


# -- corners -------------------------------------------------------------------------------------------


def test_a_state_directory_with_a_long_path_works(stage: Stage) -> None:
    deep = stage.state_dir / ("d" * 150)
    deep.mkdir()
    far = Stage(deep)
    try:
        far.start()
        far.kill(far.await_start(1)["pid"])
        assert far.await_start(2)["content"] == far.starts()[0]["content"]
    finally:
        far.end()


def children_of_ours() -> set[str]:
    """Children of this process, dead ones that nobody waited for included."""
    found = set()
    for task in os.listdir("/proc/self/task"):
        found |= set(Path(f"/proc/self/task/{task}/children").read_text().split())
    return found


def test_a_starter_leaves_no_descriptor_and_no_child_behind(stage: Stage) -> None:
    gc.collect()  # what an earlier test has left in a cycle would go, with its descriptors, at some time
    before, children = sorted(os.listdir("/proc/self/fd")), children_of_ours()
    stage.start()
    stage.behave("crash")
    with pytest.raises(DaemonError):
        stage.start()
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert children_of_ours() <= children
