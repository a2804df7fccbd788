"""A real holder with a fake daemon: what the tests of the holder start, look at and end.

Called by them and by holder_fixtures.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        assert pid > 0, "nobody is there; 0 would be the whole process group of the tests"
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
