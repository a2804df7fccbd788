#!/usr/bin/env python3
"""Everything at once for minutes or hours: `make soak`, or `scripts/soak.py --minutes 60 --seed 7` (root).

In rounds. In each, workers change directories of their own, map files and check their bytes, and a guest maps
a file for the whole time; meanwhile daemons are killed, restarted and killed while they restart, the instance
is frozen and thawed, checked while it serves, the holder is killed and replaced, and daemon and holder are
killed together. Between rounds all is given back, the instance is unmounted, checked, mounted again, and
looked at for what leaks.

Ends with one screen of report; exit status 0 only when all is well. Uses a run directory of its own: other
instances of the host are left alone. What a run does depends on its seed, which is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from guestmemfs_fuse.control import client
from guestmemfs_fuse.handover import pid_file
from tests import leftovers
from tests.cli import Guestmemfs, Instance
from tests.mount.load_crew import Crew, crew, kill, locked_pid, serving_pid
from tests.mount.user_of import User, user_of

MIB = 1 << 20
WORKERS = 3
LONGEST_QUIET_S = 1.5
STEPS_OF_A_ROUND = (6, 14)
SETTLED_WITHIN_S = 60.0
FD_GROWTH = 4
RSS_GROWTH_BYTES = 24 * MIB
GUEST_BYTES = 4 * MIB
GUEST_TEXT = "guest-memory-stays"


@dataclass(frozen=True, slots=True)
class Footprint:
    """What an idle daemon uses."""

    fds: int
    rss_bytes: int

    @classmethod
    def of(cls, instance: Instance) -> Footprint:
        """Measured now."""
        pid = serving_pid(instance.state_dir)
        with open(f"/proc/{pid}/statm") as file:
            rss_bytes = int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return cls(len(os.listdir(f"/proc/{pid}/fd")), rss_bytes)


@dataclass
class Tally:
    """What was done and seen, over all rounds."""

    done: Counter[str] = field(default_factory=Counter)
    calls: int = 0
    rounds: int = 0
    footprints: list[Footprint] = field(default_factory=list)


class Round:
    """One round: a load, a guest, and what is done to the instance under them."""

    def __init__(self, instance: Instance, load: Crew, guest: User, dice: random.Random) -> None:
        self.instance = instance
        self.load = load
        self.guest = guest
        self.dice = dice
        self.actions: list[tuple[int, Callable[[], None]]] = [
            (6, self.kill_daemon),
            (2, self.kill_it_while_it_starts),
            (4, self.restart),
            (2, self.kill_holder_and_restart),
            (2, self.kill_it_while_it_restarts),
            (3, self.freeze_and_thaw),
            (3, self.check_while_serving),
            (3, self.verify),
            (1, self.kill_daemon_and_holder),
        ]

    def step(self) -> str:
        """Let the load run for a random while, then do something; returns what."""
        deadline = time.monotonic() + self.dice.random() * LONGEST_QUIET_S
        while time.monotonic() < deadline:
            self.load.check_alive()
            time.sleep(0.02)
        weights, actions = zip(*self.actions, strict=True)
        (action,) = self.dice.choices(actions, weights)
        action()
        self.guest_is_well()
        name: str = action.__name__
        return name.replace("_", " ")

    def serving(self, *, not_pid: int = 0) -> int:
        return serving_pid(self.instance.state_dir, not_pid=not_pid)

    def holder(self) -> int:
        found = pid_file.owner(str(self.instance.state_dir / "holder.pid"))
        assert found is not None
        return found

    def kill_daemon(self) -> None:
        pid = self.serving()
        kill(pid)
        self.serving(not_pid=pid)

    def kill_it_while_it_starts(self) -> None:
        pid = self.serving()
        kill(pid)
        second = locked_pid(self.instance.state_dir, not_pid=pid)
        kill(second)
        self.serving(not_pid=second)

    def restart(self) -> None:
        self.instance.cli.run("restart", self.instance.name)

    def kill_holder_and_restart(self) -> None:
        """Another holder adopts the daemon, and it is as safe as before."""
        kill(self.holder())
        self.restart()
        if self.dice.random() < 0.5:
            self.kill_daemon()

    def kill_it_while_it_restarts(self) -> None:
        pid = self.serving()
        asked = self.instance.cli.start("restart", self.instance.name)
        time.sleep(self.dice.random())
        kill(pid)
        asked.communicate(timeout=SETTLED_WITHIN_S)
        self.serving(not_pid=pid)

    def freeze_and_thaw(self) -> None:
        """The load takes EBUSY for a mistake of ours, so it pauses."""
        state_dir = str(self.instance.state_dir)
        self.load.verify("pause")
        client.call(state_dir, "freeze", timeout_s=SETTLED_WITHIN_S)
        if self.dice.random() < 0.5:
            self.kill_daemon()
        assert self.instance.status()["state"] == "frozen"
        client.call(state_dir, "thaw", timeout_s=SETTLED_WITHIN_S, wait_s=SETTLED_WITHIN_S)
        self.load.go_on()

    def check_while_serving(self) -> None:
        require_clean(self.instance)

    def verify(self) -> None:
        self.load.verify()

    def kill_daemon_and_holder(self) -> None:
        """The connection is gone with them, which callers notice and the guest does not."""
        kill(self.holder(), self.serving())
        self.load.wait_disconnected()
        self.guest_is_well()
        self.instance.remount()
        self.load.remounted()
        self.load.verify()

    def guest_is_well(self) -> None:
        said = self.guest.read(MIB, len(GUEST_TEXT))
        assert said == GUEST_TEXT, f"the guest's memory changed: {said!r}"


def require_clean(instance: Instance) -> None:
    """fsck finds nothing."""
    done = instance.cli.run("fsck", instance.name, "--json", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["clean"], done.stdout


def play_round(instance: Instance, number: int, seed: int, ends_s: float, tally: Tally) -> None:
    """One round and what follows it. Raises AssertionError when anything is wrong."""
    dice = random.Random(f"{seed}-{number}")
    path = instance.mountpoint / "guest"
    with (
        user_of(path, length_bytes=GUEST_BYTES) as guest,
        crew(instance.mountpoint, WORKERS, seed * 10_000 + number) as load,
    ):
        this = Round(instance, load, guest, dice)
        for _ in range(dice.randrange(*STEPS_OF_A_ROUND)):
            tally.done[this.step()] += 1
            if time.monotonic() > ends_s:
                break
        tally.calls += load.stop()
    give_back(instance)
    require_clean(instance)
    instance.umount()
    require_clean(instance)
    instance.remount()
    tally.done["unmount, check, mount"] += 1
    tally.rounds += 1
    tally.footprints.append(Footprint.of(instance))


def give_back(instance: Instance) -> None:
    """Remove what the workers made: then only the guest's memory is in use, and no orphan is left."""
    for each in instance.mountpoint.iterdir():
        if each.name != "guest":
            shutil.rmtree(each)
    deadline = time.monotonic() + SETTLED_WITHIN_S
    while True:
        status = instance.status()
        if status["region"]["used_bytes"] == GUEST_BYTES and not status["counters"]["orphans"]:
            return
        assert time.monotonic() < deadline, f"memory or orphans leak: {status['region']} {status['counters']}"
        time.sleep(0.1)


def begin(instance: Instance) -> None:
    """The guest's file, with its bytes."""
    path = instance.mountpoint / "guest"
    path.touch()
    os.truncate(path, GUEST_BYTES)
    with user_of(path, length_bytes=GUEST_BYTES) as guest:
        guest.write(MIB, GUEST_TEXT)
    instance.umount()
    instance.remount()


@contextmanager
def instance_of_ours(problems: list[str]) -> Iterator[Instance]:
    """A fresh instance; whatever is left of it afterwards is a problem."""
    directory = Path(tempfile.mkdtemp(prefix="gm-soak-"))
    cli = Guestmemfs(directory)
    try:
        yield cli.mount("soak", size="1G")
    except BaseException:
        show_log(directory)
        raise
    finally:
        cli.destroy_all()
        left = leftovers.wait_gone(directory, SETTLED_WITHIN_S)
        problems += [f"left behind: {line}" for line in left.lines()]
        leftovers.sweep(directory)
        leftovers.remove_directory(directory)


def show_log(directory: Path) -> None:
    """The end of what the daemons said."""
    for path in directory.glob("run/*/daemon.log"):
        print(path.read_text(errors="replace")[-4000:], file=sys.stderr)


def growth(footprints: list[Footprint]) -> list[str]:
    """Idle daemons after each round, compared with the one before the first."""
    first, last = footprints[0], footprints[-1]
    found = []
    if last.fds > first.fds + FD_GROWTH:
        found.append(f"descriptors of an idle daemon grew from {first.fds} to {last.fds}")
    if last.rss_bytes > first.rss_bytes + RSS_GROWTH_BYTES:
        found.append(
            f"memory of an idle daemon grew from {first.rss_bytes >> 20} to {last.rss_bytes >> 20} MiB"
        )
    return found


def report(tally: Tally, problems: list[str], took_s: float, seed: int) -> None:
    """One screen."""
    print(f"soak: {took_s / 60:.1f} min, seed {seed}, {tally.rounds} rounds, {tally.calls} calls of the load")
    for what, count in tally.done.most_common():
        print(f"  {count:5}  {what}")
    if tally.footprints:
        first, last = tally.footprints[0], tally.footprints[-1]
        print(f"  idle daemon: {first.fds} -> {last.fds} descriptors, ", end="")
        print(f"{first.rss_bytes >> 20} -> {last.rss_bytes >> 20} MiB")
    for problem in problems:
        print(f"PROBLEM {problem}")
    print("all is well" if not problems else "NOT WELL")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=float(os.environ.get("SOAK_MINUTES", "3")))
    parser.add_argument("--seed", type=int, default=random.randrange(1, 1000))
    options = parser.parse_args()
    began_s, tally, problems = time.monotonic(), Tally(), list[str]()
    ends_s = began_s + options.minutes * 60
    print(f"soak: seed {options.seed}, {options.minutes:g} min", flush=True)
    try:
        with instance_of_ours(problems) as instance:
            begin(instance)
            tally.footprints.append(Footprint.of(instance))
            while not tally.rounds or time.monotonic() < ends_s:
                play_round(instance, tally.rounds, options.seed, ends_s, tally)
            problems += growth(tally.footprints)
    except Exception:
        problems.append(traceback.format_exc())
    report(tally, problems, time.monotonic() - began_s, options.seed)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
