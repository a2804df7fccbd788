"""Random load by several processes while daemons die: nothing acknowledged is lost, no caller ever notices.

Short by default; GUESTMEMFS_CRASH_KILLS says how many daemons are killed, GUESTMEMFS_CRASH_SEED which load.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from guestmemfs_fuse.handover import pid_file
from tests.cli import Guestmemfs, Instance
from tests.mount.load_crew import Crew, crew, kill, locked_pid, serving_pid

KILLS = int(os.environ.get("GUESTMEMFS_CRASH_KILLS", "14"))
SEED = int(os.environ.get("GUESTMEMFS_CRASH_SEED", "1"))
WORKERS = 4


@pytest.fixture
def instance(guestmemfs: Guestmemfs) -> Iterator[Instance]:
    """Room for all workers' files; no page of them is touched before it is used."""
    instance = guestmemfs.mount(size="512M")
    yield instance
    show_log(instance)


def show_log(instance: Instance) -> None:
    """pytest prints it when the test failed."""
    with suppress(OSError):
        print((instance.state_dir / "daemon.log").read_text()[-6000:])


def assert_clean(instance: Instance) -> None:
    done = instance.cli.run("fsck", instance.name, "--json", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["clean"]


def assert_nothing_leaks(instance: Instance) -> None:
    """Without files there is no memory in use: no orphan was forgotten, no backing id keeps any."""
    for each in instance.mountpoint.iterdir():
        shutil.rmtree(each)
    deadline = time.monotonic() + 20
    while (status := instance.status())["region"]["used_bytes"] or status["counters"]["orphans"]:
        assert time.monotonic() < deadline, json.dumps(status)
        time.sleep(0.1)
    assert status["files"] == []


def run_for(load: Crew, dice: random.Random, longest_s: float = 0.4) -> None:
    """Let them work for a random while; a worker that found something wrong ends the test at once."""
    deadline = time.monotonic() + dice.random() * longest_s
    while time.monotonic() < deadline:
        load.check_alive()
        time.sleep(0.01)


def test_daemons_killed_and_replaced_under_load_are_never_noticed(instance: Instance) -> None:
    dice = random.Random(SEED)
    state_dir = instance.state_dir
    with crew(instance.mountpoint, WORKERS, SEED) as load:
        pid = serving_pid(state_dir)
        for number in range(KILLS):
            run_for(load, dice)
            match number % 7:
                case 3:
                    instance.cli.run("restart", instance.name)
                case 5:
                    kill(pid)  # and its successor before it serves
                    pid = locked_pid(state_dir, not_pid=pid)
                    kill(pid)
                case _:
                    kill(pid)
            pid = serving_pid(state_dir, not_pid=pid)
        load.verify()
        run_for(load, dice)
        done = load.stop()
    assert done > 50 * KILLS, "too little happened to mean anything"
    assert_clean(instance)
    assert_nothing_leaks(instance)
    instance.umount()
    assert_clean(instance)


def test_holder_and_daemon_killed_under_load_lose_nothing_acknowledged(instance: Instance) -> None:
    """The connection is gone with them: calls fail, but what was acknowledged is there when it is mounted
    again, and the call that was under way was done wholly or not at all."""
    dice = random.Random(SEED + 1)
    state_dir = instance.state_dir
    holder_file = str(state_dir / "holder.pid")
    with crew(instance.mountpoint, WORKERS, SEED + 1) as load:
        for _ in range(max(2, KILLS // 7)):
            run_for(load, dice, 1.0)
            holder = pid_file.owner(holder_file)
            assert holder is not None
            kill(holder, serving_pid(state_dir))
            load.wait_disconnected()
            instance.remount()
            load.remounted()
            run_for(load, dice)
            load.verify()
        load.stop()
    assert_clean(instance)


@pytest.mark.parametrize("kind", ["tmpfs", "memfd"])
def test_restarts_under_load_are_never_noticed(guestmemfs: Guestmemfs, kind: str) -> None:
    """Of a memfd region each new file is a descriptor more that a successor must be given."""
    instance = guestmemfs.mount("gm", "--region", kind, size="512M")
    dice = random.Random(SEED + 2)
    with crew(instance.mountpoint, 2, SEED + 2) as load:
        for number in range(max(3, KILLS // 4)):
            run_for(load, dice)
            pid = serving_pid(instance.state_dir)
            if kind == "memfd" and number % 2:
                kill(pid)
            else:
                instance.cli.run("restart", instance.name)
            serving_pid(instance.state_dir, not_pid=pid)
        load.stop()
    assert instance.status()["generation"] >= 4
    assert_clean(instance)
