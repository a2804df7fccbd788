"""Asking an instance's daemon, and finding its process when it does not answer. Called by the commands."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from guestmemfs_fuse.cli import sight
from guestmemfs_fuse.control import client
from guestmemfs_fuse.core.errors import DaemonError
from guestmemfs_fuse.metadata.instance import Instance

RESTART_WAIT_S = client.RESTART_WAIT_S
ANSWER_S = 5.0
"""For a ping, which waits for nothing."""


@dataclass(frozen=True, slots=True)
class Pong:
    """What ping answers. stall_ns: how long calls waited during the last hand-over, None: there was none.

    is_abandoned: the holder was killed; nobody keeps the daemon's descriptors or would start the next one.
    """

    pid: int
    generation: int
    state: str
    stall_ns: int | None
    is_abandoned: bool


def ask(
    instance: Instance, op: str, args: Mapping[str, object] | None = None, **options: Any
) -> dict[str, Any]:
    """client.call, for results that are maps; says so when the daemon went because its mount did."""
    try:
        result = client.call(instance.paths.state_dir, op, args, **options)
    except client.GoneError:
        require_mount(instance)
        raise
    if not isinstance(result, dict):
        raise DaemonError(f"the daemon answered {op} with {type(result).__name__}")
    return result


def ask_without_limit(
    instance: Instance, op: str, args: Mapping[str, object] | None = None, **options: Any
) -> dict[str, Any]:
    """ask, for what may take as long as it takes; a daemon that hangs is not waited for. Raises as ask."""
    try:
        ping(instance, timeout_s=ANSWER_S, wait_s=RESTART_WAIT_S)
    except DaemonError as error:
        error.hint = error.hint or f"`guestmemfs restart {instance.name}`"
        raise
    return ask(instance, op, args, timeout_s=None, wait_s=RESTART_WAIT_S, **options)


def require_mount(instance: Instance) -> None:
    """For who waits for a daemon: without its mount none will come. Raises DaemonError."""
    if sight.mount_of(instance) is None:
        raise DaemonError(
            f"instance {instance.name} was unmounted meanwhile",
            hint=f"`guestmemfs status {instance.name}` shows it",
        )


def ping(instance: Instance, *, timeout_s: float, wait_s: float = 0.0) -> Pong:
    """Who serves. Raises DaemonError, also when nobody answers in time."""
    answer = ask(instance, "ping", timeout_s=timeout_s, wait_s=wait_s)
    return Pong(
        answer["pid"],
        answer["generation"],
        answer["state"],
        answer.get("stall_ns"),
        answer.get("is_abandoned", False),  # daemons that were started before the update do not say
    )


def pid_by_lock(lock_path: str) -> int | None:
    """The process that holds the instance's lock, found in /proc: for a daemon that does not answer.

    /proc/PID/fdinfo/FD shows a flock(2) beside the descriptor it was taken through.
    """
    for name in os.listdir("/proc"):
        if name.isdigit() and int(name) != os.getpid() and _holds(f"/proc/{name}", lock_path):
            return int(name)
    return None


def _holds(process: str, lock_path: str) -> bool:
    with suppress(OSError):
        for fd in os.listdir(f"{process}/fd"):
            with suppress(OSError):
                if os.readlink(f"{process}/fd/{fd}") != lock_path:
                    continue
                with open(f"{process}/fdinfo/{fd}", "rb") as file:
                    if b"FLOCK" in file.read():
                        return True
    return False


def send(pid: int, number: signal.Signals) -> None:
    """A signal for a process of ours; one that is gone already is as good."""
    with suppress(ProcessLookupError):
        os.kill(pid, number)
