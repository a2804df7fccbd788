"""The registry: which instances there are, and which one a name or a path means.

RUN_DIR/NAME is an instance's state directory, or a symlink to it when the user put it elsewhere. RUN_DIR is
/run/guestmemfs unless GUESTMEMFS_RUN_DIR says otherwise.

Invariants: no mountpoint is ever touched (metadata/instance_names.py); `forget` removes no memory. Two
commands may register at once: the daemon's lock, not the registry, decides who serves.
Called by the command line and the daemon; Paths and InstanceConfig are passed on from here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass

from guestmemfs_fuse.core.errors import InstanceBusyError, MetadataError, UnknownTargetError, UsageError
from guestmemfs_fuse.linux import mountinfo
from guestmemfs_fuse.metadata.instance_config import (
    HugeWish,
    InstanceConfig,
    Paths,
    RegionKind,
    current_boot_id,
)
from guestmemfs_fuse.metadata.instance_names import default_name, resolve_path, valid_name

__all__ = [
    "BrokenInstance",
    "HugeWish",
    "Instance",
    "InstanceConfig",
    "Paths",
    "RegionKind",
    "all_instances",
    "broken",
    "current_boot_id",
    "default_name",
    "find",
    "forget",
    "instance_of_path",
    "placed_at",
    "register",
    "resolve_path",
    "run_dir",
    "state_dir_of",
    "valid_name",
]

RUN_DIR_VARIABLE = "GUESTMEMFS_RUN_DIR"
DEFAULT_RUN_DIR = "/run/guestmemfs"


@dataclass(frozen=True, slots=True)
class Instance:
    """An instance whose configuration could be read."""

    name: str
    paths: Paths
    config: InstanceConfig


@dataclass(frozen=True, slots=True)
class BrokenInstance:
    """A name in the registry whose configuration is missing or refused; `list` says why."""

    name: str
    paths: Paths
    problem: MetadataError


def run_dir() -> str:
    """Where instances are registered: $GUESTMEMFS_RUN_DIR or /run/guestmemfs."""
    return os.environ.get(RUN_DIR_VARIABLE) or DEFAULT_RUN_DIR


def _home(name: str) -> str:
    return os.path.join(resolve_path(run_dir()), name)


def state_dir_of(name: str) -> str:
    """The state directory of NAME, symlink followed; it need not exist. Raises UsageError on a bad name."""
    if not valid_name(name):
        raise UsageError(
            f"{name!r} is no instance name",
            hint="1 to 63 letters, digits and _ . : + -, not beginning with . : or -",
        )
    return resolve_path(_home(name))


def register(name: str, state_dir: str | None = None) -> Paths:
    """Make the state directory (mode 0700) and put NAME into the registry; doing it twice is harmless.

    state_dir: where the user wants it, or None for RUN_DIR/NAME. Raises UsageError when NAME already
    stands for another directory, OSError when a directory cannot be made.
    """
    home = _home(name)
    current = state_dir_of(name)
    os.makedirs(run_dir(), mode=0o755, exist_ok=True)
    wanted = current if state_dir is None else resolve_path(state_dir)
    if os.path.lexists(home) and wanted != current:
        raise UsageError(
            f"instance {name} already has its state in {current}",
            hint="leave --state-dir out, or choose another --name",
        )
    os.makedirs(wanted, mode=0o700, exist_ok=True)
    if wanted != home and not os.path.lexists(home):
        os.symlink(wanted, home)
    return Paths(wanted)


def forget(name: str) -> None:
    """Take NAME out of the registry with the small files of its state directory. Memory is not touched.

    Raises InstanceBusyError, with no file removed, while region/ or metadata/ still holds something: that is
    destroy's to give back first. Forgetting what is not registered does nothing.
    """
    paths = Paths(state_dir_of(name))
    home = _home(name)
    for directory in (paths.region, paths.metadata):
        try:
            os.rmdir(directory)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise InstanceBusyError(f"{directory} is still in use: {error.strerror}") from error
    for path in paths.small_files():
        _remove(path)
    try:
        os.rmdir(paths.state_dir)
    except OSError:
        # Beside our files the user's own directory may hold theirs.
        pass
    if os.path.islink(home):
        os.unlink(home)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def all_instances() -> list[Instance | BrokenInstance]:
    """Everything in the registry, by name, also what is stopped, dangling or damaged."""
    try:
        names = sorted(os.listdir(run_dir()))
    except FileNotFoundError:
        return []
    opened = [_open(name) for name in names if valid_name(name) and _is_entry(_home(name))]
    # What was destroyed while we looked is not there, rather than broken.
    return [each for each in opened if isinstance(each, Instance) or _is_entry(_home(each.name))]


def _is_entry(path: str) -> bool:
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        return False
    return stat.S_IFMT(mode) in (stat.S_IFDIR, stat.S_IFLNK)


def _open(name: str) -> Instance | BrokenInstance:
    paths = Paths(state_dir_of(name))
    try:
        return Instance(name, paths, InstanceConfig.load(paths.state_dir))
    except MetadataError as problem:
        return BrokenInstance(name, paths, problem)
    except OSError as error:
        unreadable = MetadataError(
            f"{paths.config}: {error.strerror}", hint="destroy the instance, or restore it"
        )
        return BrokenInstance(name, paths, unreadable)


def find(target: str) -> Instance:
    """The instance called TARGET, or mounted exactly there.

    Raises UnknownTargetError when there is none, UsageError when several were mounted there, MetadataError
    when its configuration cannot be read.
    """
    instances = all_instances()
    for instance in instances:
        if instance.name == target:
            if isinstance(instance, BrokenInstance):
                raise instance.problem
            return instance
    where = resolve_path(target, _mountpoints(instances))
    if (placed := _placed(instances, where)) is not None:
        return placed
    raise UnknownTargetError(
        f"no instance {target}", hint="`guestmemfs list` shows all names and mountpoints"
    )


def placed_at(mountpoint: str) -> Instance | None:
    """The instance that is mounted at a canonical path, or else the only one that was.

    Raises UsageError when several were.
    """
    return _placed(all_instances(), mountpoint)


def _placed(instances: Collection[Instance | BrokenInstance], mountpoint: str) -> Instance | None:
    found = [
        each for each in instances if isinstance(each, Instance) and each.config.mountpoint == mountpoint
    ]
    if len(found) < 2:
        return found[0] if found else None
    for each in found:
        if mountinfo.of_instance(mountpoint, each.name) is not None:
            return each
    raise UsageError(
        f"several instances were mounted at {mountpoint}: {', '.join(each.name for each in found)}",
        hint="say which one by its name",
    )


def broken(name: str) -> BrokenInstance | None:
    """The instance of that name if its configuration cannot be read."""
    return next(
        (each for each in all_instances() if isinstance(each, BrokenInstance) and each.name == name), None
    )


def instance_of_path(path: str) -> tuple[Instance, str]:
    """The instance whose mount PATH is in, and the path below its mountpoint ('' for the mountpoint).

    Symlinks up to the mountpoint are followed, those inside it are left to the caller. Raises
    UnknownTargetError when PATH is in no instance, UsageError when several were mounted there.
    """
    instances = all_instances()
    where = resolve_path(path, _mountpoints(instances))
    inside = [
        instance
        for instance in instances
        if isinstance(instance, Instance) and (where + "/").startswith(instance.config.mountpoint + "/")
    ]
    if not inside:
        raise UnknownTargetError(
            f"{path} is in no instance", hint="`guestmemfs list` shows all names and mountpoints"
        )
    mountpoint = max((instance.config.mountpoint for instance in inside), key=len)
    best = _placed(inside, mountpoint)
    assert best is not None
    return best, where[len(mountpoint) + 1 :]


def _mountpoints(instances: Collection[Instance | BrokenInstance]) -> frozenset[str]:
    return frozenset(each.config.mountpoint for each in instances if isinstance(each, Instance))
