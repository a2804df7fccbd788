"""Several load workers on one instance, and the hand that kills daemons under them.

Called by the crash tests and scripts/soak.py.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guestmemfs_fuse.cli.daemons import pid_by_lock
from guestmemfs_fuse.control import client
from guestmemfs_fuse.core.errors import DaemonError, GuestmemfsError

REPOSITORY = Path(__file__).resolve().parents[2]
ANSWERS_WITHIN_S = 60.0


@dataclass
class Member:
    """One worker, as its crew sees it."""

    process: subprocess.Popen[str]
    seed: int
    waits_for_mount: bool = False

    def hear(self, timeout_s: float = ANSWERS_WITHIN_S) -> dict[str, Any]:
        """Its next line. Fails when it found something wrong, or says nothing."""
        assert self.process.stdout is not None
        readable, _, _ = select.select([self.process.stdout], [], [], timeout_s)
        assert readable, f"the load with seed {self.seed} hangs: {self._where()}"
        line = self.process.stdout.readline()
        assert line, f"the load with seed {self.seed} ended with {self.process.wait()}"
        said: dict[str, Any] = json.loads(line)
        assert "error" not in said, f"seed {self.seed}: {said['error']}"
        if said.get("disconnected"):
            self.waits_for_mount = True
        return said

    def say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def _where(self) -> str:
        with suppress(OSError):
            return Path(f"/proc/{self.process.pid}/stack").read_text()
        return "gone"


class Crew:
    """All workers of one instance."""

    def __init__(self, members: list[Member]) -> None:
        self.members = members

    def check_alive(self) -> None:
        """Fail at once when a worker has found something wrong. Nobody may have lost the mount."""
        for member in self.members:
            assert member.process.stdout is not None
            if select.select([member.process.stdout], [], [], 0)[0]:
                said = member.hear()
                assert not said, f"seed {member.seed} says {said}, although the connection was kept"

    def verify(self, how: str = "verify") -> int:
        """Everything acknowledged is there, and nothing else; returns how many calls were made so far."""
        for member in self.members:
            member.say(how)
        done = 0
        for member in self.members:
            said = member.hear()
            assert said.get("problems") == [], (member.seed, said)
            done += said["done"]
        return done

    def go_on(self) -> None:
        """After verify("pause")."""
        for member in self.members:
            member.say("go on")

    def wait_disconnected(self) -> None:
        """Both holder and daemon were killed: every worker notices."""
        for member in self.members:
            assert member.hear() == {"disconnected": True}

    def remounted(self) -> None:
        """The mount is back: every worker finds out what became of the call that was open."""
        for member in self.members:
            member.say("go on")
            member.waits_for_mount = False

    def stop(self) -> int:
        """As verify, then they end."""
        done = self.verify("stop")
        for member in self.members:
            assert member.process.wait(ANSWERS_WITHIN_S) == 0
        return done


@contextmanager
def crew(mountpoint: Path, count: int, seed: int) -> Iterator[Crew]:
    """`count` workers, each in a directory of its own; killed at the end if they still run."""
    members: list[Member] = []
    try:
        for number in range(count):
            command = [sys.executable, "-m", "tests.mount.load_worker", f"{mountpoint}/w{seed}-{number}"]
            process = subprocess.Popen(
                [*command, str(seed * 1000 + number)],
                cwd=REPOSITORY,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            members.append(Member(process, seed * 1000 + number))
        for member in members:
            assert member.hear() == {"ready": True}
        yield Crew(members)
    finally:
        for member in members:
            member.process.kill()
            member.process.communicate()


def serving_pid(state_dir: Path, *, not_pid: int = 0, within_s: float = 60.0) -> int:
    """The daemon that answers now, once it is another one than not_pid."""
    deadline = time.monotonic() + within_s
    while True:
        with suppress(DaemonError, GuestmemfsError):
            answer = client.call(str(state_dir), "ping", timeout_s=10.0, wait_s=1.0)
            assert isinstance(answer, dict)
            if answer["pid"] != not_pid:
                return int(answer["pid"])
        assert time.monotonic() < deadline, f"no daemon serves {state_dir}"


def locked_pid(state_dir: Path, *, not_pid: int, within_s: float = 60.0) -> int:
    """The daemon that has the lock, which may not serve yet, once it is another one than not_pid."""
    deadline = time.monotonic() + within_s
    while (pid := pid_by_lock(str(state_dir / "lock"))) in (None, not_pid):
        assert time.monotonic() < deadline, f"no daemon has the lock of {state_dir}"
    return int(pid or 0)


def kill(*pids: int) -> None:
    """SIGKILL, all at once, and wait until nothing of them is left.

    A process of several threads is a zombie before the last one has let go of lock, sockets and connection;
    its pidfd says when that has happened.
    """
    with ExitStack() as stack:
        pidfds = []
        for pid in pids:
            with suppress(ProcessLookupError):
                pidfds.append(os.pidfd_open(pid))
                stack.callback(os.close, pidfds[-1])
                signal.pidfd_send_signal(pidfds[-1], signal.SIGKILL)
        for pidfd in pidfds:
            assert select.select([pidfd], [], [], ANSWERS_WITHIN_S)[0], pids
