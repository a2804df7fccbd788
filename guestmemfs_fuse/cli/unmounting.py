"""Taking the mount away and seeing daemon and holder go. Called by `umount` and `destroy`.

The command unmounts, not the daemon: the daemon notices that its connection has ended, writes a last
snapshot and exits.
"""

from __future__ import annotations

import errno
from contextlib import suppress

from guestmemfs_fuse.cli import busy, daemons, sight
from guestmemfs_fuse.control import client
from guestmemfs_fuse.core.errors import DaemonError, InstanceBusyError
from guestmemfs_fuse.handover.launch import wait_holder_gone
from guestmemfs_fuse.linux import mount, mountinfo
from guestmemfs_fuse.linux.mountinfo import MountEntry
from guestmemfs_fuse.linux.patience import patient
from guestmemfs_fuse.metadata.instance import Instance

GONE_WITHIN_S = patient(20.0)
"""An exit takes a moment; on a host that is busy with other things ten seconds were not enough."""
_PING_S = 5.0


def unmount(instance: Instance, seen: sight.Sight, *, lazily: bool = False) -> None:
    """Unmount, and return once the daemon has gone. `seen` has a mount.

    lazily: take it out of the tree although it is in use; whoever uses it keeps the daemon.
    Raises InstanceBusyError (with who keeps it busy; nothing changed), DaemonError when the daemon stays.
    """
    detach(instance, seen, lazily=lazily)
    if not lazily:
        require_daemon_gone(instance)


def detach(instance: Instance, seen: sight.Sight, *, lazily: bool = False) -> None:
    """The first half of `unmount`: the mount is gone, its daemon will notice. Raises InstanceBusyError."""
    assert seen.mount is not None
    is_dead = seen.condition is sight.Condition.DEAD_MOUNT
    if not is_dead:
        _let_it_settle(instance)
    if not lazily:
        _require_only_mount(seen.mount)
    flags = mount.MNT_DETACH if is_dead or lazily else 0
    try:
        mount.umount(seen.mount.mountpoint, flags | mount.UMOUNT_NOFOLLOW)
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise _busy(seen.mount) from error
        if error.errno != errno.EINVAL or sight.mount_of(instance) is not None:
            raise
        # Its daemon could not start, and took it away itself.


def require_daemon_gone(instance: Instance) -> None:
    """The second half: wait for the daemon's end. Raises DaemonError when it stays."""
    if not wait_daemon_gone(instance):
        raise _stays(instance)


def _let_it_settle(instance: Instance) -> None:
    """A daemon that is just being started must be up to notice the unmount, or it might mount again."""
    with suppress(DaemonError):
        client.call(instance.paths.state_dir, "ping", timeout_s=_PING_S, wait_s=_PING_S)


def wait_daemon_gone(instance: Instance, timeout_s: float = GONE_WITHIN_S) -> bool:
    """Whether the daemon ended within timeout_s, and the holder with it where it has nothing to keep."""
    if not sight.wait_until(lambda: not sight.is_locked(instance.paths.lock), timeout_s):
        return False
    return instance.config.kind == "memfd" or wait_holder_gone(instance.paths.state_dir, timeout_s)


def _require_only_mount(entry: MountEntry) -> None:
    """A bind mount of it elsewhere would keep the daemon, and us waiting for its end."""
    others = [
        each.mountpoint
        for each in mountinfo.read_mounts()
        if each.dev == entry.dev and each.mount_id != entry.mount_id
    ]
    if others:
        raise InstanceBusyError(
            f"{entry.mountpoint} is mounted also at {', '.join(others)}", hint="unmount that first"
        )


def _stays(instance: Instance) -> DaemonError:
    where, pid = instance.config.mountpoint, daemons.pid_by_lock(instance.paths.lock)
    if pid is None:
        return DaemonError(
            f"{where} is unmounted, but its holder does not end", hint=f"see {instance.paths.daemon_log}"
        )
    return DaemonError(
        f"{where} is unmounted, but its daemon (pid {pid}) does not end",
        hint=f"see {instance.paths.daemon_log}; `kill -9 {pid}` loses nothing that was acknowledged",
    )


def _busy(entry: MountEntry) -> InstanceBusyError:
    inside = busy.mounts_inside(entry)
    if inside:
        return InstanceBusyError(
            f"{entry.mountpoint} is busy: {', '.join(inside)} is mounted inside", hint="unmount that first"
        )
    who = busy.described(busy.uses_of_mount(entry)) or "some process uses it"
    return InstanceBusyError(f"{entry.mountpoint} is busy: {who}", hint="end them (or save the guests) first")
