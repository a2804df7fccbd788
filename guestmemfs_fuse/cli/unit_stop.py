"""Stopping a unit: ExecStop= and ExecStopPost= of guestmemfs@NAME.service.

systemd runs ExecStop= whenever the daemon is to end or has ended, but while the unit is reloaded. Only a real
stop takes the mount away: a restart and a crash leave it to the next daemon, whose connection systemd keeps
meanwhile. systemd does not say which it is, but the job it is working on does ("restart" while the stopping
half of a restart runs), and $MAINPID is not set when the daemon is gone already (systemd.exec(5)).

Invariants: memory stays, and so does what is mapped of it; no command that is at work keeps the mount. Called
by `serve --stop` and `serve --stopped`.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from guestmemfs_fuse.cli import unit_config, unit_state
from guestmemfs_fuse.cli.output import say

_ASK_S = 10.0
_AGAIN_S = 0.2
_CLAIM_S = 5.0
"""For a command that is at work. Then it gets what it would get from umount(8), which asks nobody either: its
daemon ends. To wait longer would end in a mount without a daemon, when TimeoutStopSec= has passed."""


def stop_unit(name_or_path: str, environ: Mapping[str, str]) -> None:
    """Unmount, unless the mount is to go on. Raises GuestmemfsError."""
    name = unit_config.name_of(unit_config.path_of(name_or_path))
    unit = unit_state.unit_of(name)
    if not environ.get("MAINPID"):
        say(f"the daemon of {name} ended by itself: the mount waits for the next one")
        return
    jobs = _jobs(unit)
    if jobs is None:
        # Taken away in a restart it would be missed by guests that run; left behind in a stop by nobody.
        say(f"whether {unit} is restarted is not known: the mount stays")
        return
    if is_restarting(unit, jobs):
        say(f"{unit} is being restarted: the mount stays")
        return
    _unmount(name)


def clean_up(name_or_path: str) -> None:
    """After the daemon's end: unmount what a stop has left mounted. Raises GuestmemfsError."""
    name = unit_config.name_of(unit_config.path_of(name_or_path))
    unit = unit_state.unit_of(name)
    if _has_job(unit, "stop", _jobs(unit) or ""):
        _unmount(name)


def is_restarting(unit: str, jobs: str) -> bool:
    """Whether `systemctl list-jobs` shows a restart of the unit."""
    return _has_job(unit, "restart", jobs)


def _has_job(unit: str, kind: str, jobs: str) -> bool:
    """jobs: lines of ID UNIT TYPE STATE."""
    return any(
        words[1] == unit and words[2] == kind
        for words in map(str.split, jobs.splitlines())
        if len(words) >= 4
    )


def _jobs(unit: str) -> str | None:
    """What `systemctl list-jobs` shows of the unit; None when systemd does not answer for a while.

    It may be executing itself anew (daemon-reexec, an upgrade of it), so it is asked more than once.
    """
    if not os.path.isdir(unit_state.SYSTEMD):
        return ""  # somebody runs us by hand
    deadline_s = time.monotonic() + _ASK_S
    while True:
        jobs, why = _ask(unit)
        if jobs is not None or time.monotonic() > deadline_s:
            break
        time.sleep(_AGAIN_S)
    if jobs is None:
        say(f"note: systemctl does not say which job runs: {why}")
    return jobs


def _ask(unit: str) -> tuple[str | None, str]:
    """The answer, or None and why there is none."""
    command = ("systemctl", "list-jobs", "--no-legend", "--no-pager", "--plain", "--full", unit)
    try:
        done = unit_state.asked(*command, timeout_s=_ASK_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, str(error)
    return (done.stdout, "") if done.returncode == 0 else (None, done.stderr.strip())


def _unmount(name: str) -> None:
    from guestmemfs_fuse.cli import sight
    from guestmemfs_fuse.cli.claim import claimed
    from guestmemfs_fuse.cli.unmounting import detach, require_daemon_gone
    from guestmemfs_fuse.core.errors import InstanceBusyError
    from guestmemfs_fuse.metadata.instance import find

    instance = find(name)
    with ExitStack() as stack:
        try:
            stack.enter_context(claimed(instance.paths.state_dir, _CLAIM_S))
        except InstanceBusyError as error:
            say(f"note: {error.message}: it is not waited for any longer")
        seen = sight.look(instance)
        if seen.mount is None:
            return
        with _aborter(seen.mount.minor) as abort:
            try:
                detach(instance, seen)
            except InstanceBusyError as error:
                say(f"note: {error.message}; what is mapped stays mapped, other calls fail now")
                detach(instance, sight.look(instance), lazily=True)
            abort()
        # Were it told to go (SIGTERM) first, it would leave its connection in the store, for the next daemon.
        require_daemon_gone(instance)


@contextmanager
def _aborter(connection: int) -> Iterator[Callable[[], None]]:
    """Lets calls on files that are still open fail instead of waiting for a daemon that will not come.

    Whoever has them open may be out of our sight: in another mount namespace, a container's.
    """
    from guestmemfs_fuse.linux import fuse_connection

    with ExitStack() as stack:
        try:
            abort = stack.enter_context(fuse_connection.aborter(connection))
        except OSError as error:
            say(f"note: calls on files that are still open wait for the next start: {error}")
            abort = _nothing
        yield abort


def _nothing() -> None:
    pass
