"""An unprivileged user of the mount: its processes, and the daemon's health afterwards."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.cli import Instance
from tests.mount.load_crew import serving_pid

MIB = 1 << 20
UID = 61234

_fork = multiprocessing.get_context("fork")


@contextmanager
def as_user(function: Callable[..., object], *args: object) -> Iterator[multiprocessing.Process]:
    """Run it in a process of the unprivileged user; killed at the end if it still runs."""

    def run() -> None:
        os.setgroups([])
        os.setresgid(UID, UID, UID)
        os.setresuid(UID, UID, UID)
        function(*args)

    child: Any = _fork.Process(target=run)
    child.start()
    try:
        yield child
    finally:
        child.kill()
        child.join()


def done_by_user(function: Callable[..., object], *args: object, within_s: float = 300.0) -> None:
    """The same to its end, which must be a good one."""
    with as_user(function, *args) as child:
        child.join(within_s)
        assert child.exitcode == 0, f"{function.__name__}: {child.exitcode}"


def resident_bytes(pid: int) -> int:
    with open(f"/proc/{pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def assert_unharmed(instance: Instance, pid: int) -> None:
    """The daemon is the one it was, answers, and nothing is inconsistent."""
    assert serving_pid(instance.state_dir) == pid
    log = (instance.state_dir / "daemon.log").read_text()
    assert "Traceback" not in log, log
    assert instance.cli.run("fsck", instance.name).returncode == 0
