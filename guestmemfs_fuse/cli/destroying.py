"""Giving an instance's memory back. Called by cli/destroy.py.

Invariants: without force nothing is taken from a process that still uses it; the name leaves the registry
last, so that an interrupted destroy can be repeated. Only processes of this instance are ended, by pid.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

from guestmemfs_fuse.cli import busy, daemons, sight
from guestmemfs_fuse.cli.output import say
from guestmemfs_fuse.cli.unmounting import unmount, wait_daemon_gone
from guestmemfs_fuse.core.errors import DaemonError, InstanceBusyError, MetadataError
from guestmemfs_fuse.handover import launch, pid_file
from guestmemfs_fuse.linux import mount, mountinfo
from guestmemfs_fuse.linux.users import Dev
from guestmemfs_fuse.metadata import instance as registry
from guestmemfs_fuse.metadata.instance import BrokenInstance, Instance

_ENDS_WITHIN_S = 10.0
_FORCED_WITHIN_S = 2.0


def destroy_instance(instance: Instance, *, force: bool) -> None:
    """Unmount, end daemon and holder, give the memory back, forget the name.

    Raises InstanceBusyError while a process uses it (not with force), DaemonError when the daemon stays.
    """
    from guestmemfs_fuse.region import choose, hugetlb_reserve

    seen = sight.look(instance)
    if seen.mount is None:
        # A daemon whose mount was just taken away still says in the metadata that it is gone.
        sight.wait_until(lambda: not sight.is_locked(instance.paths.lock), _FORCED_WITHIN_S)
    uses = busy.uses_of_files(_devices(instance, seen, force=force))
    if uses and not force:
        raise InstanceBusyError(
            f"instance {instance.name} is in use: {busy.described(uses)}",
            hint="end them first; --force takes the memory's name away all the same",
        )
    if seen.mount is not None:
        _take_mount_away(instance, seen, force=force)
    _end_processes(instance, force=force)
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


def _end_processes(instance: Instance, *, force: bool) -> None:
    """The daemon ends with its mount, the holder when it has nothing to keep; forced ones are killed."""
    state_dir = instance.paths.state_dir
    gone = sight.wait_until(
        lambda: not sight.is_locked(instance.paths.lock), _FORCED_WITHIN_S if force else _ENDS_WITHIN_S
    )
    if gone:
        with suppress(DaemonError):
            launch.drop_kept(state_dir)
        gone = launch.wait_holder_gone(state_dir, _ENDS_WITHIN_S)
    if gone:
        return
    if not force:
        raise DaemonError(f"the daemon of {instance.name} does not end", hint="--force kills it")
    # The holder first, or it would start another daemon.
    if (holder := pid_file.owner(instance.paths.holder_pid)) is not None:
        _kill(holder)
    if (daemon := daemons.pid_by_lock(instance.paths.lock)) is not None:
        _kill(daemon)
    if not wait_daemon_gone(instance):
        raise DaemonError(f"the daemon of {instance.name} cannot be killed")


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
