"""What an instance looks like from outside: mounted, served, held, or what is left of it.

Reads mount table, locks and the region's own mount; asks the daemon at most for a ping. The mountpoint is
never touched, so a dead or stuck mount can neither hang nor fail a command. Changes nothing.

A daemon is there when somebody holds STATE_DIR/lock. Looking takes that lock for an instant; a daemon waits
for it, so nobody is disturbed. Called by the commands.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from guestmemfs_fuse.cli import unit_state
from guestmemfs_fuse.handover import last_words, pid_file
from guestmemfs_fuse.handover.last_words import LastWords
from guestmemfs_fuse.linux import mountinfo
from guestmemfs_fuse.metadata.instance import Instance, InstanceConfig, Paths, current_boot_id

_POLL_S = 0.01


class Condition(Enum):
    """In which condition an instance is; the words are those of `list --json` and of `status --json`."""

    SERVING = "serving"
    FROZEN = "frozen"
    STOPPED = "stopped"
    SILENT = "silent"
    RESTARTING = "restarting"
    DEAD_MOUNT = "dead-mount"
    LOST = "lost"
    BROKEN = "broken"


@dataclass(frozen=True, slots=True)
class Sight:
    """Facts about one instance at one moment.

    mount: the instance at its mountpoint; has_daemon: a process serves it, or is about to; holder_pid: of
    the living holder; has_region: its memory exists; last_words: why the holder gave its daemon up;
    unit_waits: there is no holder, but systemd will start the next daemon.
    """

    mount: mountinfo.MountEntry | None
    has_daemon: bool
    holder_pid: int | None
    has_region: bool
    last_words: LastWords | None
    unit_waits: bool = False

    @property
    def condition(self) -> Condition:
        """What the facts mean, as far as they can be known without asking the daemon."""
        if self.has_daemon:
            return Condition.SERVING
        if self.mount is not None:
            waits = self.unit_waits or (self.holder_pid is not None and self.last_words is None)
            return Condition.RESTARTING if waits else Condition.DEAD_MOUNT
        return Condition.STOPPED if self.has_region else Condition.LOST


def look(instance: Instance) -> Sight:
    """See what there is of an instance now."""
    paths = instance.paths
    mount, has_daemon = mount_of(instance), is_locked(paths.lock)
    holder_pid = pid_file.owner(paths.holder_pid)
    is_abandoned = mount is not None and not has_daemon and holder_pid is None
    has_region = mount is not None or has_daemon or region_is_there(instance.config, paths)
    return Sight(
        mount=mount,
        has_daemon=has_daemon,
        holder_pid=holder_pid,
        has_region=has_region or is_kept_by_systemd(instance),
        last_words=read_last_words(paths.last_words),
        unit_waits=is_abandoned and unit_state.will_come_back(instance.name),
    )


def region_is_there(
    config: InstanceConfig, paths: Paths, received: Mapping[str, list[int]] | None = None
) -> bool:
    """Whether the instance's memory still exists. received: descriptors that systemd gave us, by name."""
    from guestmemfs_fuse.region import choose  # costs as much as everything else here together

    if config.kind == "memfd" and pid_file.owner(paths.holder_pid) is not None:
        return True  # the descriptors are with the holder, which lives for nothing else
    return choose.region_is_there(config, paths, received)


def is_kept_by_systemd(instance: Instance) -> bool:
    """Whether a memfd region without daemon and holder is in the fd store of its stopped unit."""
    return instance.config.kind == "memfd" and unit_state.keeps_memory(instance.name)


def mount_of(instance: Instance) -> mountinfo.MountEntry | None:
    """The mount of an instance, not that of another one which stands there by now."""
    return mountinfo.of_instance(instance.config.mountpoint, instance.name)


def our_mount(mountpoint: str) -> mountinfo.MountEntry | None:
    """The mount at exactly this canonical path, when it is a filesystem of ours."""
    return mountinfo.find_mountpoint(mountpoint, mountinfo.OURS)


def is_of_earlier_boot(instance: Instance) -> bool:
    """Whether the host was booted since the instance was made."""
    return instance.config.boot_id != current_boot_id()


def is_locked(path: str) -> bool:
    """Whether some process holds a flock(2) on the file; a file that is not there is not locked."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def read_last_words(path: str) -> LastWords | None:
    """Why the daemon was given up, None when it was not."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return last_words.parse(file.read())
    except FileNotFoundError:
        return None


def wait_until(holds: Callable[[], bool], timeout_s: float) -> bool:
    """Look again and again until it holds; whether it did within timeout_s seconds."""
    deadline = time.monotonic() + timeout_s
    while not holds():
        if time.monotonic() >= deadline:
            return False
        time.sleep(_POLL_S)
    return True
