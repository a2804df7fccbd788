"""A new daemon under a live mount: asked for, or forced when the old one does not answer.

Whatever the old daemon's condition, the mount and all open files stay: the connection is with the holder
(or systemd), and whoever comes next takes it over. A daemon whose holder was killed gets another one first.
Called by cli/restart.py.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass

from guestmemfs_fuse.cli import daemons, sight
from guestmemfs_fuse.cli.daemons import Pong
from guestmemfs_fuse.cli.output import say
from guestmemfs_fuse.cli.sight import Condition
from guestmemfs_fuse.core.errors import DaemonError, GuestmemfsError, UsageError
from guestmemfs_fuse.handover import launch
from guestmemfs_fuse.handover.fdstore import Notifier
from guestmemfs_fuse.metadata.instance import Instance

ANSWER_S = 5.0
HANDOVER_S = 30.0
REPLACED_WITHIN_S = 15.0


@dataclass(frozen=True, slots=True)
class Restarted:
    """old_pid, old_generation: None where the old daemon could not be asked any more."""

    old_pid: int | None
    old_generation: int | None
    new: Pong


def restart_daemon(instance: Instance) -> Restarted:
    """Returns once another daemon serves. Raises GuestmemfsError; the old one may go on."""
    seen = sight.look(instance)
    name, mountpoint = instance.name, instance.config.mountpoint
    if seen.mount is None:
        raise GuestmemfsError(f"instance {name} is not mounted", hint=f"`guestmemfs mount {mountpoint}`")
    if seen.condition is Condition.DEAD_MOUNT:
        raise DaemonError(
            f"{mountpoint} is a dead mount: daemon and holder are gone",
            hint=f"`guestmemfs mount {mountpoint}` brings data and metadata back",
        )
    if seen.condition is Condition.RESTARTING:
        say("note: the daemon has died and its holder is starting another")
        return Restarted(None, None, _wait_for_other(instance, old_pid=None, old_generation=None))
    try:
        before = daemons.ping(instance, timeout_s=ANSWER_S, wait_s=ANSWER_S)
    except DaemonError as error:
        return _replace_silent(instance, seen.holder_pid, error)
    if before.is_abandoned:
        say("note: its holder was killed: another one takes its place")
        with suppress(UsageError):  # a daemon from before the update knows nothing of that: see below
            give_holder(instance, before.pid)
    daemons.ask(instance, "restart", timeout_s=HANDOVER_S)
    after = _wait_for_other(instance, old_pid=before.pid, old_generation=before.generation)
    if after.is_abandoned:
        give_holder(instance, after.pid)
    return Restarted(before.pid, before.generation, after)


def give_holder(instance: Instance, daemon_pid: int) -> int:
    """Start a holder for a daemon that lost its own; returns its pid. Raises GuestmemfsError."""

    def entrust(log: str, notify_socket: str) -> None:
        daemons.ask(instance, "entrust", {"log": log, "notify_socket": notify_socket}, timeout_s=HANDOVER_S)

    state_dir = instance.paths.state_dir
    return launch.adopt_daemon(state_dir, launch.daemon_argv(state_dir), daemon_pid, entrust)


def _replace_silent(instance: Instance, holder_pid: int | None, error: DaemonError) -> Restarted:
    pid = daemons.pid_by_lock(instance.paths.lock)
    if pid is not None:
        if holder_pid is None and not _is_supervised(pid):
            raise DaemonError(
                f"the daemon (pid {pid}) does not answer, and nobody would start another: {error.message}",
                hint="it was started by hand with --foreground, or its holder was killed",
            )
        say(f"note: the daemon (pid {pid}) does not answer: killing it, another takes over")
        daemons.send(pid, signal.SIGKILL)
    return Restarted(pid, None, _wait_for_other(instance, old_pid=pid, old_generation=None))


def _is_supervised(pid: int) -> bool:
    """Whether somebody keeps its connection and starts another: whoever its environment names listens."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            environ = dict(each.partition(b"=")[::2] for each in file.read().split(b"\0"))
    except OSError:
        return True  # it is gone already
    return Notifier(os.fsdecode(environ.get(b"NOTIFY_SOCKET", b"")) or None).is_heard()


def _wait_for_other(instance: Instance, *, old_pid: int | None, old_generation: int | None) -> Pong:
    found: list[Pong] = []

    def is_there() -> bool:
        with suppress(DaemonError):
            pong = daemons.ping(instance, timeout_s=2.0)
            # Without room in its journal a daemon cannot count its start.
            if pong.pid != old_pid and pong.generation >= (old_generation or 0):
                found.append(pong)
                return True
        daemons.require_mount(instance)
        return False

    if not sight.wait_until(is_there, REPLACED_WITHIN_S):
        raise DaemonError(
            f"no new daemon serves instance {instance.name} after {REPLACED_WITHIN_S:g} s",
            hint=f"see {instance.paths.daemon_log}",
        )
    return found[0]
