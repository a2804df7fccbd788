"""A real holder with a fake daemon: who is started again with what, who is given up, who ends when."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from guestmemfs_fuse.core.errors import DaemonError, ExitCode, OutOfMemoryError
from guestmemfs_fuse.handover import launch
from guestmemfs_fuse.linux import process

FAKE_DAEMON = str(Path(__file__).with_name("fake_daemon.py"))
DEADLINE_S = 20.0


def until(condition: Callable[[], object], what: str) -> None:
    deadline_s = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline_s, f"not within {DEADLINE_S} s: {what}"
        time.sleep(0.005)


def memfds_of(pid: int) -> list[str]:
    """Names of the memfds a process has open, sorted."""
    links = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            links.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except FileNotFoundError:
            pass
    return sorted(link[len("/memfd:") : -len(" (deleted)")] for link in links if link.startswith("/memfd:"))


@dataclass
class Stage:
    """One state directory, and everything that was started for it."""

    state_dir: Path

    @property
    def argv(self) -> list[str]:
        return [sys.executable, FAKE_DAEMON, str(self.state_dir)]

    def behave(self, word: str) -> None:
        (self.state_dir / "behaviour").write_text(word)

    def start(self, timeout_s: float = DEADLINE_S) -> int:
        return launch.start_daemon(str(self.state_dir), self.argv, timeout_s)

    def starts(self) -> list[dict[str, Any]]:
        """One entry for each daemon that became ready."""
        file = self.state_dir / "starts"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def await_start(self, number: int) -> dict[str, Any]:
        """The number-th start, counted from 1."""
        until(lambda: len(self.starts()) >= number, f"start number {number}; log: {self.log()}")
        return self.starts()[number - 1]

    def kill(self, pid: int, number: int = signal.SIGKILL) -> None:
        os.kill(pid, number)

    def holder(self) -> int | None:
        return launch.holder_pid(str(self.state_dir))

    def log(self) -> str:
        file = self.state_dir / "daemon.log"
        return file.read_text() if file.exists() else ""

    def end(self) -> None:
        """End whatever still runs for this directory, and only that."""
        self.behave("crash")
        holder = self.holder()
        for pid in (holder, *(start["pid"] for start in self.starts())):
            if pid and process.is_alive(pid) and self._is_ours(pid):
                os.kill(pid, signal.SIGKILL)

    def _is_ours(self, pid: int) -> bool:
        try:
            return os.fsencode(self.state_dir) in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False


@pytest.fixture
def stage(private_dir: Path) -> Iterator[Stage]:
    state_dir = private_dir / "state"
    state_dir.mkdir()
    stage = Stage(state_dir)
    yield stage
    stage.end()


# -- what a holder is ------------------------------------------------------------------------------------


def test_a_holder_is_small_and_has_nothing_of_its_starter(stage: Stage) -> None:
    with open(stage.state_dir / "inherited", "w") as inherited:
        os.set_inheritable(inherited.fileno(), True)
        holder = stage.start()
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{holder}/status").read_text().splitlines())
    assert status["Name"] == "gmemfs-holder"
    assert int(status["VmRSS"].split()[0]) < 15 * 1024
    assert os.readlink(f"/proc/{holder}/cwd") == "/"
    assert os.getsid(holder) != os.getsid(0)
    links = [os.readlink(f"/proc/{holder}/fd/{name}") for name in os.listdir(f"/proc/{holder}/fd")]
    kinds = {link.split(":")[0] if ":" in link else link for link in links}
    assert kinds == {"/dev/null", "/memfd", "anon_inode", "pipe", "socket", f"{stage.state_dir}/holder.pid"}
    daemon = stage.await_start(1)["pid"]
    assert not [
        name
        for name in os.listdir(f"/proc/{daemon}/fd")
        if os.readlink(f"/proc/{daemon}/fd/{name}").startswith(f"{stage.state_dir}/inherited")
    ]


def test_an_idle_holder_does_not_wake_up(stage: Stage) -> None:
    holder = stage.start()

    def switches() -> int:
        lines = Path(f"/proc/{holder}/status").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if "ctxt_switches" in line)

    until(lambda: Path(f"/proc/{holder}/wchan").read_text() != "0", "the holder waits")
    before = switches()
    time.sleep(0.5)  # not for a race: this is the time over which nothing must happen
    assert switches() == before


# -- restart -------------------------------------------------------------------------------------------


def test_a_killed_daemon_comes_back_with_the_same_descriptors(stage: Stage) -> None:
    holder = stage.start()
    first = stage.await_start(1)
    for number in range(2, 10):
        stage.kill(stage.starts()[-1]["pid"])
        again = stage.await_start(number)
        assert again["content"] == first["content"]
        assert again["pid"] != first["pid"]
        assert again["ppid"] == holder
    assert memfds_of(holder) == ["fuse", "region-1"]


def test_a_daemon_that_wants_to_come_back_does_as_often_as_it_likes(stage: Stage) -> None:
    stage.behave("come back")
    holder = stage.start()
    first = stage.await_start(1)
    for number in range(2, 9):
        stage.kill(stage.starts()[-1]["pid"], signal.SIGTERM)
        assert stage.await_start(number)["content"] == first["content"]
    stage.kill(holder, signal.SIGTERM)
    until(lambda: memfds_of(holder) == ["region-1"], "told through its holder it stays away")


def test_a_crash_loop_is_given_up_with_last_words_and_the_memory_kept(stage: Stage) -> None:
    holder = stage.start()
    region = stage.await_start(1)["content"]["region-1"]
    stage.behave("crash")
    stage.kill(stage.starts()[0]["pid"])
    until(lambda: launch.read_last_words(str(stage.state_dir)), "given up")
    words = launch.read_last_words(str(stage.state_dir))
    assert words is not None
    assert words.reason == "given up after 7 deaths within 30 s: the daemon exited with status 3"
    assert words.tail == "line before the crash"
    assert stage.log().count("line before the crash") == 6
    assert memfds_of(holder) == ["region-1"]

    stage.behave("")
    assert stage.start() == holder
    content = stage.await_start(2)["content"]
    assert content["region-1"] == region
    assert launch.read_last_words(str(stage.state_dir)) is None


def test_a_holder_that_gave_up_and_keeps_nothing_ends(stage: Stage) -> None:
    stage.behave("no region")
    stage.start()
    daemon = stage.await_start(1)["pid"]
    stage.behave("refuse")
    stage.kill(daemon)
    assert launch.wait_holder_gone(str(stage.state_dir), DEADLINE_S)
    words = launch.read_last_words(str(stage.state_dir))
    assert words is not None
    assert (words.class_name, words.message) == ("OutOfMemoryError", "4 GiB wanted, 1 GiB free")
    assert words.hint == "ask for less"


# -- the end -------------------------------------------------------------------------------------------


def test_a_daemon_that_stops_takes_the_holder_along_when_nothing_is_kept(stage: Stage) -> None:
    stage.behave("no region")
    stage.start()
    stage.kill(stage.await_start(1)["pid"], signal.SIGTERM)
    assert launch.wait_holder_gone(str(stage.state_dir), DEADLINE_S)
    until(lambda: not (stage.state_dir / "holder.pid").exists(), "holder.pid is gone")
    assert sorted(os.listdir(stage.state_dir)) == ["behaviour", "daemon.log", "starts"]


def test_a_holder_of_memory_outlives_the_stopped_daemon_until_it_is_dropped(stage: Stage) -> None:
    holder = stage.start()
    first = stage.await_start(1)
    stage.kill(first["pid"], signal.SIGTERM)
    until(lambda: memfds_of(holder) == ["region-1"], "the mount's descriptor is dropped")
    assert stage.start() == holder
    second = stage.await_start(2)
    assert second["content"]["region-1"] == first["content"]["region-1"]
    assert second["content"]["fuse"] != first["content"]["fuse"]
    stage.kill(second["pid"], signal.SIGTERM)
    until(lambda: not process.is_alive(second["pid"]), "the daemon stopped")
    assert not launch.wait_holder_gone(str(stage.state_dir), 0.05)
    launch.drop_kept(str(stage.state_dir))
    assert launch.wait_holder_gone(str(stage.state_dir), DEADLINE_S)
    launch.drop_kept(str(stage.state_dir))


def test_what_is_dropped_is_not_started_again(stage: Stage) -> None:
    """A daemon without its descriptors would begin anew what destroy is about to remove."""
    stage.start()
    stage.behave("crash")
    stage.kill(stage.await_start(1)["pid"])
    until(lambda: stage.log().count("exited with status 3") == 5, "the longest wait before a restart")
    launch.drop_kept(str(stage.state_dir))
    assert launch.wait_holder_gone(str(stage.state_dir), DEADLINE_S)
    assert stage.log().count("exited with status 3") == 5
    assert not (stage.state_dir / "last_words").exists()


def test_a_start_right_after_a_stop_waits_for_it(stage: Stage) -> None:
    stage.behave("slow stop")
    holder = stage.start()
    daemon = stage.await_start(1)["pid"]
    stage.kill(holder, signal.SIGTERM)
    # Either the holder still has its SIGTERM to read, or its daemon takes its time to end.
    until(lambda: process.is_alive(daemon), "still there")
    assert stage.start() == holder
    assert stage.await_start(2)["pid"] != daemon
    assert not process.is_alive(daemon)


def test_a_start_while_the_holder_is_on_its_way_out_gets_a_new_one(stage: Stage) -> None:
    """The narrow windows between a daemon's end and its holder's, hit at several points."""
    stage.behave("no region")
    stage.start()
    for number in range(1, 9):
        daemon = stage.await_start(number)["pid"]
        stage.kill(daemon, signal.SIGTERM)
        until(lambda pid=daemon: not process.is_alive(pid), "the daemon stopped")  # type: ignore[misc]
        time.sleep(number * 0.0002)
        stage.start()


def test_sigterm_to_the_holder_stops_the_daemon_and_keeps_the_memory(stage: Stage) -> None:
    holder = stage.start()
    daemon = stage.await_start(1)["pid"]
    stage.kill(holder, signal.SIGTERM)
    until(lambda: not process.is_alive(daemon), "the daemon stopped")
    until(lambda: memfds_of(holder) == ["region-1"], "the mount's descriptor is dropped")
    assert len(stage.starts()) == 1


def test_both_killed_leaves_nothing_in_the_way_of_a_new_start(stage: Stage) -> None:
    holder = stage.start()
    daemon = stage.await_start(1)["pid"]
    stage.kill(holder)
    until(lambda: not process.is_alive(holder), "the holder is dead")
    assert stage.holder() is None
    assert process.is_alive(daemon)
    stage.kill(daemon)
    assert stage.start() != holder
    assert stage.await_start(2)["pid"] != daemon


def test_a_daemon_survives_its_holder_and_still_logs_into_the_void(stage: Stage) -> None:
    holder = stage.start()
    daemon = stage.await_start(1)["pid"]
    stage.kill(daemon, signal.SIGUSR2)
    until(lambda: "a line from the daemon" in stage.log(), "the line is in the log")
    stage.kill(holder)
    until(lambda: not process.is_alive(holder), "the holder is dead")
    stage.kill(daemon, signal.SIGTERM)
    until(lambda: not process.is_alive(daemon), "the daemon stopped")


# -- successors ----------------------------------------------------------------------------------------


def test_a_successor_is_watched_in_place_of_its_predecessor(stage: Stage) -> None:
    holder = stage.start()
    first = stage.await_start(1)
    stage.kill(first["pid"], signal.SIGUSR1)
    second = stage.await_start(2)
    until(lambda: not process.is_alive(first["pid"]), "the predecessor ended")
    assert second["content"] == first["content"]
    until(lambda: f"PPid:\t{holder}\n" in Path(f"/proc/{second['pid']}/status").read_text(), "adopted")
    assert memfds_of(holder) == ["fuse", "region-1"]
    stage.kill(second["pid"])
    third = stage.await_start(3)
    assert third["content"] == first["content"]
    assert third["ppid"] == holder


def test_a_successor_that_stops_stops_the_instance(stage: Stage) -> None:
    stage.behave("no region")
    stage.start()
    first = stage.await_start(1)["pid"]
    stage.kill(first, signal.SIGUSR1)
    second = stage.await_start(2)["pid"]
    until(lambda: not process.is_alive(first), "the predecessor ended")
    stage.kill(second, signal.SIGTERM)
    assert launch.wait_holder_gone(str(stage.state_dir), DEADLINE_S)


def test_a_successor_that_dies_before_its_predecessor_has_gone_is_replaced(stage: Stage) -> None:
    stage.behave("former stays")
    stage.start()
    first = stage.await_start(1)
    stage.kill(first["pid"], signal.SIGUSR1)
    second = stage.await_start(2)
    assert process.is_alive(first["pid"])
    stage.kill(second["pid"])
    third = stage.await_start(3)
    assert third["content"] == first["content"]
    assert not process.is_alive(first["pid"])


def test_a_predecessor_that_ends_content_after_losing_its_successor_is_replaced(stage: Stage) -> None:
    stage.behave("lost successor")
    stage.start()
    first = stage.await_start(1)
    stage.kill(first["pid"], signal.SIGUSR1)
    assert stage.await_start(2)["content"] == first["content"]


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
    before, children = sorted(os.listdir("/proc/self/fd")), children_of_ours()
    stage.start()
    stage.behave("crash")
    with pytest.raises(DaemonError):
        stage.start()
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert children_of_ours() <= children
