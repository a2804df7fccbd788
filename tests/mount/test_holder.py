"""A real holder with a fake daemon: who is started again with what, who is given up, who ends when."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

from guestmemfs_fuse.cli.sight import read_last_words
from guestmemfs_fuse.handover import launch
from guestmemfs_fuse.linux import process
from tests.mount.holder_stage import DEADLINE_S, Stage, memfds_of, until

pytest_plugins = ("tests.mount.holder_fixtures",)


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


def started(stage: Stage) -> int:
    """The daemon that was started last, ready or not."""
    return int(re.findall(r"daemon (\d+) started", stage.log())[-1])


def test_regression_a_daemon_killed_each_time_it_starts_is_not_given_up(stage: Stage) -> None:
    """Kills on a busy host hit daemons that were not ready yet; six of them ended the mount."""
    holder = stage.start()
    first = stage.await_start(1)
    stage.behave("hang")
    killed = [first["pid"]]
    for _ in range(9):
        stage.kill(killed[-1])
        until(lambda: started(stage) not in killed, "the next start")
        killed.append(started(stage))
    stage.behave("")
    stage.kill(killed[-1])
    assert stage.await_start(2)["content"] == first["content"]
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
    until(lambda: read_last_words(str(stage.state_dir / "last_words")), "given up")
    words = read_last_words(str(stage.state_dir / "last_words"))
    assert words is not None
    assert words.reason == "given up after 7 deaths within 30 s: the daemon exited with status 3"
    assert words.tail == "line before the crash"
    assert stage.log().count("line before the crash") == 6
    assert memfds_of(holder) == ["region-1"]

    stage.behave("")
    assert stage.start() == holder
    content = stage.await_start(2)["content"]
    assert content["region-1"] == region
    assert read_last_words(str(stage.state_dir / "last_words")) is None


def test_a_holder_that_gave_up_and_keeps_nothing_ends(stage: Stage) -> None:
    stage.behave("no region")
    stage.start()
    daemon = stage.await_start(1)["pid"]
    stage.behave("refuse")
    stage.kill(daemon)
    assert launch.wait_holder_gone(str(stage.state_dir), DEADLINE_S)
    words = read_last_words(str(stage.state_dir / "last_words"))
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
