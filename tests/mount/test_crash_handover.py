"""Predecessor, successor, or both are killed at every stage of a hand-over, under load: nobody notices.

The stages pass in the order of handover/successor.py; where one begins is not seen from outside, so the kill
comes later and later after the word to restart until the hand-over is through before it.
"""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest

from guestmemfs_fuse.cli import sight
from guestmemfs_fuse.control import client
from guestmemfs_fuse.core.errors import GuestmemfsError
from tests.cli import Instance
from tests.mount.load_crew import Crew, crew, kill, serving_pid

STAGES = int(os.environ.get("GUESTMEMFS_HANDOVER_STAGES", "6"))
STEP_S = 0.9 / STAGES
"""A hand-over takes half a second on an idle machine, most of it until the successor is warm."""


def children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


class Restart:
    """A restart that is under way."""

    def __init__(self, state_dir: Path) -> None:
        self.began_s = time.monotonic()
        self.error: GuestmemfsError | None = None
        self._thread = threading.Thread(target=self._ask, args=(state_dir,))
        self._thread.start()

    def _ask(self, state_dir: Path) -> None:
        try:
            client.call(str(state_dir), "restart", timeout_s=60)
        except GuestmemfsError as error:  # whoever should have answered may be dead
            self.error = error

    def wait(self) -> None:
        self._thread.join()


def wait_for_child(pid: int) -> int | None:
    """The successor, once there is one; None when the daemon is gone before."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        if found := children(pid):
            return found[0]
        if not Path(f"/proc/{pid}").exists():
            return None
        time.sleep(0.002)
    raise AssertionError("no successor is started")


def check(instance: Instance, load: Crew, *, not_pid: int = 0) -> None:
    serving_pid(instance.state_dir, not_pid=not_pid)
    load.check_alive()


@pytest.mark.parametrize("who", ["predecessor", "successor", "both"])
def test_killed_at_any_stage_of_a_hand_over(instance: Instance, who: str) -> None:
    state_dir = instance.state_dir
    with crew(instance.mountpoint, 2, 5) as load:
        for stage in range(STAGES):
            pid = serving_pid(state_dir)
            restart = Restart(state_dir)
            victims = [pid] if who != "successor" else []
            if who != "predecessor":
                child = wait_for_child(pid)
                victims += [child] if child is not None else []
            time.sleep(max(0.0, restart.began_s + stage * STEP_S - time.monotonic()))
            kill(*victims)
            restart.wait()
            check(instance, load, not_pid=0 if who == "successor" else pid)
        assert load.stop() > 10 * STAGES
    done = instance.cli.run("fsck", instance.name, "--json", check=False)
    assert json.loads(done.stdout)["clean"], done.stdout


def test_regression_restarts_asked_for_at_once_are_one_hand_over(instance: Instance) -> None:
    """Each had its successor, and all of them were told to go; the last one was made the main process."""
    with crew(instance.mountpoint, 2, 6) as load:
        first = serving_pid(instance.state_dir)
        restarts = [Restart(instance.state_dir) for _ in range(4)]
        for restart in restarts:
            restart.wait()
        check(instance, load, not_pid=first)
        load.stop()
    assert sum(restart.error is None for restart in restarts) >= 1
    assert all("under way" in str(each.error) for each in restarts if each.error is not None)
    status = instance.status()
    # The former daemon answers who asked it before it ends.
    holder, daemon = status["holder_pid"], status["daemon_pid"]
    assert sight.wait_until(lambda: children(holder) == [daemon], 20), children(holder)
    assert instance.cli.run("fsck", instance.name).returncode == 0


def test_regression_commands_during_a_hand_over_are_answered(instance: Instance) -> None:
    """The old daemon went on taking them when journal and region were closed: "the journal is closed", "Not a
    directory" (of what stood under the region's descriptor now), or a connection that was cut."""
    (instance.mountpoint / "ram").touch()
    state_dir, asked, failed, over = str(instance.state_dir), [0], list[str](), threading.Event()

    def ask(op: str, **args: object) -> None:
        while not over.is_set():
            try:
                client.call(state_dir, op, args)
            except GuestmemfsError as error:
                failed.append(f"{op}: {error}")
            asked[0] += 1

    users = [threading.Thread(target=ask, args=("status",)) for _ in range(2)]
    users += [
        threading.Thread(target=ask, args=("pin",), kwargs={"path": "/ram", "pinned": pinned})
        for pinned in (True, False)
    ]
    for user in users:
        user.start()
    try:
        for _ in range(3):
            pid = serving_pid(instance.state_dir)
            client.call(state_dir, "restart", timeout_s=60)
            serving_pid(instance.state_dir, not_pid=pid)
    finally:
        over.set()
        for user in users:
            user.join()
    assert not failed
    assert asked[0] > 3 * len(users)
