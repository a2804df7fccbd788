"""From the wishes of `mount` to a mount that serves.

The order: find out which instance is meant, have it for ourselves, see what is left of an earlier life (a
dead mount goes, a serving one is refused), settle the configuration, start the daemon.

Invariants: nothing is written before everything that can be checked was. When a first mount fails, all
that was made is removed; when a later one fails, configuration and memory are as they were.
Called by cli/mount.py.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace

from guestmemfs_fuse.cli import progress, sight, unit_state
from guestmemfs_fuse.cli.claim import Claim, claimed_anew
from guestmemfs_fuse.cli.mountpoint import require_free
from guestmemfs_fuse.cli.output import say
from guestmemfs_fuse.cli.sight import Condition
from guestmemfs_fuse.cli.sizes import exact_size, size_text
from guestmemfs_fuse.cli.wishes import Host, Wishes, hides, made_anew, new_config, require_same
from guestmemfs_fuse.core.errors import (
    DaemonError,
    InstanceBusyError,
    MetadataError,
    UnsupportedError,
    UsageError,
)
from guestmemfs_fuse.handover import fdnames, fdstore, launch, passed_claim, pid_file
from guestmemfs_fuse.linux import hugepages, mount, mountinfo
from guestmemfs_fuse.linux.liveupdate import DEVICE_PATH
from guestmemfs_fuse.metadata import instance as registry
from guestmemfs_fuse.metadata.instance import Instance, InstanceConfig, Paths
from guestmemfs_fuse.region import choose, host_memory, hugetlb_pool, hugetlb_reserve

_SETTLE_S = 10.0
"""For a daemon that is just coming or going."""


@dataclass(frozen=True, slots=True)
class Where:
    """Which instance is meant: its name, its directory and, once it was made, what it was made with."""

    name: str
    mountpoint: str
    paths: Paths
    stored: InstanceConfig | None


def mount_instance(wishes: Wishes) -> Instance:
    """Do what `mount` says; returns once the mount serves (with foreground: becomes the daemon).

    Raises GuestmemfsError; see the module for what is left then.
    """
    host = this_host()
    mountpoint = registry.resolve_path(wishes.mountpoint, _all_mountpoints())
    wishes = _beside_its_memory(wishes, mountpoint)
    while True:
        where = _find(wishes, mountpoint)
        if _came_through_kexec(where, wishes):
            where = _find(wishes, mountpoint)
        done = (_mount_first if where.stored is None else _mount_again)(where, wishes, host)
        if done is not None:
            return done
        # Another command made or destroyed the instance between our look and our claim: look again.


def _came_through_kexec(where: Where, wishes: Wishes) -> bool:
    """Whether the memory was in a live update session, and now is where it would be after an umount."""
    kind = where.stored.kind if where.stored is not None else wishes.kind
    if wishes.foreground or kind not in (None, "memfd") or not os.path.exists(DEVICE_PATH):
        return False
    if where.stored is not None and sight.region_is_there(where.stored, where.paths):
        return False
    from guestmemfs_fuse.cli import retrieving

    if not retrieving.retrieve_instance(where.name, wishes.state_dir):
        return False
    say(f"note: instance {where.name} came through the kexec")
    return True


def _mount_first(where: Where, wishes: Wishes, host: Host) -> Instance | None:
    """All that can be said against a new instance is said before its directory is made."""
    _require_outside(where)
    require_free(where.mountpoint)
    config = _settle(where, wishes, host)
    with _made_directory(where, wishes.state_dir) as claim:
        if os.path.exists(claim.paths.config):
            return None
        _start(where, config, claim, wishes)
    return Instance(where.name, claim.paths, config)


def _mount_again(where: Where, wishes: Wishes, host: Host) -> Instance | None:
    with claimed_anew(lambda: registry.register(where.name, wishes.state_dir)) as claim:
        paths = claim.paths
        stored = _load(paths.state_dir)
        if stored is None:
            registry.forget(where.name)
            return None
        where = replace(where, paths=paths, stored=stored)
        instance = Instance(where.name, paths, stored)
        if not wishes.foreground:
            _require_not_with_systemd(instance)
        if sight.look(instance).has_region:
            require_same(stored, wishes, _dax_dir(wishes))
        if fdnames.FUSE not in _received(wishes):
            _clear_away(instance)
            require_free(where.mountpoint)
        config = _settle(where, wishes, host)
        _start(where, config, claim, wishes)
    return Instance(where.name, paths, config)


def this_host() -> Host:
    """What this host has."""
    return Host(
        boot_id=registry.current_boot_id(),
        now_ns=time.time_ns(),
        memory_bytes=host_memory.total_bytes(),
        node_bytes={node: hugepages.node_memory_bytes(node)[0] for node in hugepages.nodes()},
    )


# -- which instance --------------------------------------------------------------------------------------


def _all_mountpoints() -> frozenset[str]:
    known = registry.all_instances()
    return frozenset(each.config.mountpoint for each in known if isinstance(each, Instance))


def _find(wishes: Wishes, mountpoint: str) -> Where:
    """By --name, else by what --state-dir holds, else by the mountpoint."""
    held = _load(registry.resolve_path(wishes.state_dir)) if wishes.state_dir is not None else None
    name = wishes.name
    if name is None:
        name = held.name if held is not None else _name_of(mountpoint)
    registered = registry.state_dir_of(name)
    stored = _load(registered) or held
    if stored is not None and stored.name != name:
        raise UsageError(
            f"{wishes.state_dir or registered} holds the state of instance {stored.name}, not {name}",
            hint=f"use --name {stored.name}, or another --state-dir",
        )
    state_dir = registered if wishes.state_dir is None else registry.resolve_path(wishes.state_dir)
    return Where(name, mountpoint, Paths(state_dir), stored)


def _beside_its_memory(wishes: Wishes, mountpoint: str) -> Wishes:
    """A dax instance keeps its state on the dax filesystem: there it is found again after a kexec.

    Raises UsageError for an instance that is elsewhere already.
    """
    dax_dir = _dax_dir(wishes)
    if dax_dir is None or wishes.state_dir is not None:
        return wishes
    name = wishes.name
    if name is None:
        name = _name_beside(dax_dir, mountpoint) or _name_of(mountpoint)
    if (registered := _load(registry.state_dir_of(name))) is not None:
        require_same(registered, wishes, dax_dir)
    return replace(wishes, name=name, state_dir=os.path.join(dax_dir, name))


def _name_beside(dax_dir: str, mountpoint: str) -> str | None:
    """The instance in dax_dir that was mounted there last: after a kexec the registry knows none of them."""
    with suppress(OSError):
        for entry in sorted(os.listdir(dax_dir)):
            with suppress(OSError, MetadataError):
                config = InstanceConfig.load(os.path.join(dax_dir, entry))
                if config.mountpoint == mountpoint and config.name == entry:
                    return config.name
    return None


def _load(state_dir: str) -> InstanceConfig | None:
    with suppress(FileNotFoundError, NotADirectoryError):
        return InstanceConfig.load(state_dir)
    return None


def _name_of(mountpoint: str) -> str:
    placed = registry.placed_at(mountpoint)
    return placed.name if placed is not None else registry.default_name(mountpoint)


def _require_outside(where: Where) -> None:
    if hides(where.mountpoint, where.paths.state_dir):
        raise UsageError(
            f"the state directory {where.paths.state_dir} would be hidden by the mount",
            hint="choose a --state-dir outside of the mountpoint",
        )


# -- what is left of an earlier life ---------------------------------------------------------------------


def _received(wishes: Wishes) -> dict[str, list[int]]:
    """What systemd hands us for the daemon we are about to become: a mount that stands, a region."""
    if not wishes.foreground:
        return {}
    return {name: [fd] for name, fd in fdstore.parse_listen_fds(os.environ, os.getpid())}


def _clear_away(instance: Instance) -> None:
    """Detach a dead mount of this instance. Raises InstanceBusyError when it serves."""
    mountpoint = instance.config.mountpoint
    if not _has_settled(sight.look(instance)):
        # Between two daemons, or on its way out after an unmount: a moment tells which.
        sight.wait_until(lambda: _has_settled(sight.look(instance)), _SETTLE_S)
    seen = sight.look(instance)
    if seen.condition is Condition.RESTARTING or (seen.has_daemon and seen.mount is not None):
        raise InstanceBusyError(
            f"instance {instance.name} is already mounted at {mountpoint} and serves",
            hint=f"`guestmemfs status {instance.name}` shows it; another instance needs another --name",
        )
    if seen.has_daemon:
        raise InstanceBusyError(
            f"a daemon of instance {instance.name} is still running, without a mount at {mountpoint}",
            hint="wait until it is gone; `guestmemfs list` shows it",
        )
    if seen.mount is not None:
        say(f"note: {mountpoint} was a dead mount (its daemon and holder are gone): detached")
        mount.umount(mountpoint, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)


def _require_not_with_systemd(instance: Instance) -> None:
    """Memory in the fd store of a stopped unit is given to nobody but that unit's daemon."""
    if pid_file.owner(instance.paths.holder_pid) is None and sight.is_kept_by_systemd(instance):
        unit = unit_state.unit_of(instance.name)
        raise InstanceBusyError(
            f"systemd keeps the memory of instance {instance.name} for {unit}",
            hint=f"`systemctl start {unit}`",
        )


def _has_settled(seen: sight.Sight) -> bool:
    return seen.condition is not Condition.RESTARTING and not (seen.has_daemon and seen.mount is None)


# -- the configuration -----------------------------------------------------------------------------------


def _settle(where: Where, wishes: Wishes, host: Host) -> InstanceConfig:
    dax_dir, stored = _dax_dir(wishes), where.stored
    if stored is None:
        config = new_config(wishes, where.name, where.mountpoint, dax_dir, host)
    elif sight.region_is_there(stored, where.paths, _received(wishes)):
        return replace(stored, mountpoint=where.mountpoint)
    else:
        _say_gone(stored, wishes, host)
        again = made_anew(stored, wishes)
        config = new_config(again, where.name, where.mountpoint, dax_dir or again.dax_dir, host)
    _require_pages(config)
    if config.kind == "memfd" and wishes.foreground and not fdstore.Notifier.from_environment().present:
        raise UnsupportedError(
            "a memfd region needs somebody who keeps its memory: a holder, or systemd",
            hint="mount without --foreground",
        )
    if wishes.size_bytes is not None and config.size_bytes != wishes.size_bytes:
        block = exact_size(config.block_bytes)
        say(f"note: the size was rounded up to whole blocks of {block}: {exact_size(config.size_bytes)}")
    return config


def _require_pages(config: InstanceConfig) -> None:
    """A hugetlb region's pages must be there, or possible, before anything is made."""
    if config.kind != "hugetlb":
        return
    if hugetlb_reserve.wanted(config):
        hugetlb_reserve.require_possible(config)
    else:
        hugetlb_pool.require_pages(config.size_bytes, config.block_bytes, config.numa_node)


def _dax_dir(wishes: Wishes) -> str | None:
    return registry.resolve_path(wishes.dax_dir) if wishes.dax_dir is not None else None


def _say_gone(stored: InstanceConfig, wishes: Wishes, host: Host) -> None:
    """Memory that does not exist any more is begun anew, but never silently."""
    what = f"the {stored.kind} region of instance {stored.name} ({size_text(stored.size_bytes)})"
    if stored.kind == "dax":
        raise UsageError(f"{what} is not at {stored.dax_dir}", hint="mount the fsdax filesystem first")
    if stored.boot_id != host.boot_id:
        say(f"note: {what} was of an earlier boot and is gone: starting empty")
        return
    if wishes.size_bytes is None:
        raise UsageError(
            f"{what} is gone although the host was not booted since",
            hint="give --size to start anew, empty, or `guestmemfs destroy` to forget it",
        )
    say(f"note: {what} is gone although the host was not booted since: starting empty")


# -- starting --------------------------------------------------------------------------------------------


@contextmanager
def _made_directory(where: Where, state_dir: str | None) -> Iterator[Claim]:
    """The directory of a new instance, ours alone; taken back when the block fails."""
    was_there = os.path.isdir(where.paths.state_dir if state_dir is None else state_dir)
    with claimed_anew(lambda: registry.register(where.name, state_dir)) as claim:
        paths = claim.paths
        try:
            yield claim
        except BaseException:
            if not os.path.exists(paths.config):
                registry.forget(where.name)
                if was_there:  # the user's own, which forget removes when it is empty
                    os.makedirs(paths.state_dir, mode=0o700, exist_ok=True)
            raise


def _start(where: Where, config: InstanceConfig, claim: Claim, wishes: Wishes) -> None:
    """Write the configuration and start the daemon; take back what was changed when that fails."""
    stored, paths = where.stored, claim.paths
    is_new_region = stored is None or stored.uuid_hex != config.uuid_hex
    if stored is not None and is_new_region:
        choose.destroy_region(stored, paths)  # what is left beside the memory, so that nothing old is found
        stored = _given_back(paths)
    argv = launch.daemon_argv(paths.state_dir)
    try:
        if config != stored:
            config.save(paths.state_dir)
        if is_new_region and hugetlb_reserve.wanted(config):
            with progress.watched("reserving huge pages", _pool_growth(config), "bytes"):
                config = hugetlb_reserve.take(config, lambda changed: changed.save(paths.state_dir))
        if wishes.foreground:
            sys.stdout.flush()
            passed_claim.pass_on(os.environ, claim.fd)
            os.execv(argv[0], argv)
        launch.start_daemon(paths.state_dir, argv, meanwhile=_import_client)
    except BaseException as error:
        if os.path.exists(paths.config):
            if not wishes.foreground:
                _await_end(config, paths)
            _undo(config, stored, paths, is_new_region)
        if stored is None and isinstance(error, DaemonError):
            error.hint = "`guestmemfs --debug mount ...` shows the daemon's last words"  # its log goes now
        raise


def _pool_growth(config: InstanceConfig) -> progress.Measure:
    """How far the pool of huge pages has grown since now, towards what the region lacks, in bytes."""
    size_bytes, page_bytes, node = config.size_bytes, config.block_bytes, config.numa_node
    before = hugetlb_pool.pool_of(page_bytes, node).total
    missing = hugetlb_pool.missing_pages(size_bytes, page_bytes, node)

    def measure() -> tuple[int, int]:
        grown = hugetlb_pool.pool_of(page_bytes, node).total - before
        return grown * page_bytes, missing * page_bytes

    return measure


def _import_client() -> None:
    """What `mount` asks the daemon with when it is there."""
    import guestmemfs_fuse.cli.daemons  # noqa: F401


def _await_end(config: InstanceConfig, paths: Paths) -> None:
    """Wait for the daemon of a start that failed; a mount that it left behind goes, there was none before."""
    if not sight.wait_until(lambda: not sight.is_locked(paths.lock), _SETTLE_S):
        raise DaemonError(
            "the daemon did not become ready, and does not end either", hint=f"see {paths.daemon_log}"
        )
    if mountinfo.of_instance(config.mountpoint, config.name) is not None:
        mount.umount(config.mountpoint, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)


def _undo(config: InstanceConfig, stored: InstanceConfig | None, paths: Paths, is_new_region: bool) -> None:
    if is_new_region:
        choose.destroy_region(config, paths)
        _given_back(paths)
    if stored is None:
        os.unlink(paths.config)
    elif stored != config:
        stored.save(paths.state_dir)


def _given_back(paths: Paths) -> InstanceConfig:
    """Take out of the pool what --reserve put in for a region that is gone, as the file has it."""
    config = InstanceConfig.load(paths.state_dir)
    boot_id = registry.current_boot_id()
    return hugetlb_reserve.give_back(config, boot_id, lambda changed: changed.save(paths.state_dir))
