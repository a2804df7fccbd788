"""Giving an instance's memory back. Called by cli/destroy.py.

Invariants: without force nothing is taken from a process that still uses it; the name leaves the registry
last, so that an interrupted destroy can be repeated. Only processes of this instance are ended, by pid.
"""

from __future__ import annotations

import signal
import time
from contextlib import suppress
from dataclasses import replace

from guestmemfs_fuse.cli import busy, daemons, settling, sight
from guestmemfs_fuse.cli.output import say
from guestmemfs_fuse.cli.unmounting import unmount
from guestmemfs_fuse.core.errors import DaemonError, InstanceBusyError, MetadataError
from guestmemfs_fuse.handover import launch
from guestmemfs_fuse.linux import mount, mountinfo, process
from guestmemfs_fuse.linux.users import Dev
from guestmemfs_fuse.metadata import instance as registry
from guestmemfs_fuse.metadata.instance import BrokenInstance, Instance, InstanceConfig

_FORCED_WITHIN_S = 2.0
_TURN_S = 0.2


def destroy_instance(instance: Instance, *, force: bool) -> None:
    """Unmount, end daemon and holder, give the memory back, forget the name.

    `instance` is claimed. Raises InstanceBusyError while a process uses it (not with force), DaemonError when
    the daemon stays.
    """
    from guestmemfs_fuse.region import choose, hugetlb_reserve

    # Whoever had the claim before us may have written to it since it was looked up.
    instance = replace(instance, config=InstanceConfig.load(instance.paths.state_dir))
    seen = settling.settled(instance, _FORCED_WITHIN_S if force else None)
    patience_s = settling.SETTLES_WITHIN_S
    if force:
        patience_s = _FORCED_WITHIN_S if settling.is_settled(instance, seen) else 0.0
    uses = busy.uses_of_files(_devices(instance, seen, force=force))
    if uses and not force:
        raise InstanceBusyError(
            f"instance {instance.name} is in use: {busy.described(uses)}",
            hint="end them first; --force takes the memory's name away all the same",
        )
    if seen.mount is not None:
        _take_mount_away(instance, seen, force=force)
    _end_processes(instance, patience_s, force=force)
    choose.destroy_region(instance.config, instance.paths)
    hugetlb_reserve.give_back(
        instance.config, registry.current_boot_id(), lambda config: config.save(instance.paths.state_dir)
    )
    registry.forget(instance.name)
    if uses:
        say(f"note: what is mapped is given back when its last user ends: {busy.described(uses)}")


def forget_broken(broken: BrokenInstance) -> None:
    """Remove an instance whose configuration cannot be read, with a region in its state directory."""
    if (entry := mountinfo.find_mountpoint(broken.paths.region)) is not None:
        mount.umount(entry.mountpoint, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
    registry.forget(broken.name)


def _devices(instance: Instance, seen: sight.Sight, *, force: bool) -> list[Dev]:
    """Superblocks through which it may be used: the mount's, and those of earlier mounts."""
    found = [seen.mount.dev] if seen.mount is not None else []
    if not seen.has_region:
        return found
    from guestmemfs_fuse.cli import offline

    try:
        return [*found, *offline.devices(instance)]
    except (MetadataError, OSError) as error:
        if not force:
            raise MetadataError(
                f"it cannot be told who maps files of {instance.name}: {error}",
                hint="`guestmemfs destroy --force` gives the memory back all the same",
            ) from error
        return found


def _take_mount_away(instance: Instance, seen: sight.Sight, *, force: bool) -> None:
    try:
        unmount(instance, seen)
    except (InstanceBusyError, DaemonError) as error:
        if not force:
            raise
        say(f"note: {error.message}")
        again = sight.look(instance)
        if again.mount is not None:
            unmount(instance, again, lazily=True)


def _end_processes(instance: Instance, patience_s: float, *, force: bool) -> None:
    """The daemon ends with its mount, the holder when it has nothing to keep; forced ones are killed."""
    if _end_by_themselves(instance, patience_s, force=force):
        return
    if not force:
        raise DaemonError(f"the daemon of {instance.name} does not end", hint="--force kills it")
    _kill_all(instance)
    if not _end_by_themselves(instance, settling.SETTLES_WITHIN_S, force=True):
        raise DaemonError(f"the daemon of {instance.name} cannot be killed")


def _end_by_themselves(instance: Instance, timeout_s: float, *, force: bool) -> bool:
    """Whether nobody is left within timeout_s seconds; what mounts meanwhile is unmounted."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        seen = sight.look(instance)
        if seen.mount is not None:
            _take_mount_away(instance, seen, force=force)
        elif seen.has_daemon:
            sight.wait_until(lambda: not sight.is_locked(instance.paths.lock), _TURN_S)
        elif seen.holder_pid is None:
            return True
        else:
            if not process.children(seen.holder_pid):
                # With a daemon that starts it would lose what that one is to serve.
                with suppress(DaemonError):
                    launch.drop_kept(instance.paths.state_dir)
            launch.wait_holder_gone(instance.paths.state_dir, _TURN_S)
        if time.monotonic() >= deadline_s:
            return False


def _kill_all(instance: Instance) -> None:
    """Holder and daemons. The holder is stopped first, or it would start another one behind our back."""
    doomed: list[int] = []
    if (holder := sight.look(instance).holder_pid) is not None:
        daemons.send(holder, signal.SIGSTOP)
        doomed = [holder, *process.children(holder)]
    if (daemon := daemons.pid_by_lock(instance.paths.lock)) is not None:
        doomed.append(daemon)
    for pid in doomed:
        daemons.send(pid, signal.SIGKILL)
