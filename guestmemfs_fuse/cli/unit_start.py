"""Starting a unit: afresh from its configuration, or on with the mount that systemd kept for it.

Invariant: a live mount never depends on the configuration file, which somebody may be editing while the
daemon is killed. Called by `serve`; ends by becoming the daemon.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from dataclasses import replace
from typing import NoReturn

from guestmemfs_fuse.cli import remembered, unit_config
from guestmemfs_fuse.cli.output import say
from guestmemfs_fuse.cli.remembered import Remembered
from guestmemfs_fuse.cli.sizes import size_text
from guestmemfs_fuse.cli.wishes import Replaced, Wishes
from guestmemfs_fuse.handover import fdnames, fdstore, launch
from guestmemfs_fuse.linux import mountinfo
from guestmemfs_fuse.metadata import instance as registry
from guestmemfs_fuse.metadata.instance_config import DEFAULT_KIND, InstanceConfig

_FILLING = "filling"
"""A descriptor that is nothing to anybody."""


def start_unit(name_or_path: str, environ: MutableMapping[str, str]) -> None:
    """Become the daemon. environ: systemd's (LISTEN_*, STATE_DIRECTORY), which the daemon gets too.

    Raises GuestmemfsError.
    """
    path = unit_config.path_of(name_or_path)
    name = unit_config.name_of(path)
    if is_live(name, environ):
        _become(registry.state_dir_of(name))
    drop_connection(environ)
    wishes = unit_config.read(path)
    _make_mountpoint(wishes.mountpoint)
    came_through = _came_through_kexec(name, wishes, environ)
    wishes = _remember(name, wishes, environ, is_lost=not came_through)
    from guestmemfs_fuse.cli.mounting import mount_instance

    mount_instance(wishes)


def _make_mountpoint(path: str) -> None:
    """A mount of ours that stands there is not looked at: without a daemon it would answer with an error."""
    from guestmemfs_fuse.cli import sight

    ours = [entry.mountpoint for entry in mountinfo.read_mounts() if entry.fstype == mountinfo.OURS]
    if sight.our_mount(registry.resolve_path(path, ours)) is None:
        os.makedirs(path, exist_ok=True)


def is_live(name: str, environ: Mapping[str, str]) -> bool:
    """Whether systemd hands us the connection of a mount that stands: then nothing is to be checked."""
    received = {each for each, _fd in fdstore.parse_listen_fds(environ, os.getpid())}
    if fdnames.FUSE not in received:
        return False
    with suppress(FileNotFoundError, NotADirectoryError):
        config = InstanceConfig.load(registry.state_dir_of(name))
        return mountinfo.of_instance(config.mountpoint, config.name) is not None
    return False


def drop_connection(environ: MutableMapping[str, str]) -> None:
    """Let go of the connection of a mount that is gone: stored, it would be taken for one that was unmounted.

    Where systemd keeps what is stored over a stop, it is found when the daemon died without having seen the
    end of its mount. The descriptor's number is filled, because those behind it are counted.
    """
    found = fdstore.parse_listen_fds(environ, os.getpid())
    if fdnames.FUSE not in (name for name, _fd in found):
        return
    fdstore.Notifier.from_environment(environ).remove(fdnames.FUSE)
    filling = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for name, fd in found:
        if name == fdnames.FUSE:
            os.dup2(filling, fd)
    os.close(filling)
    environ["LISTEN_FDNAMES"] = ":".join(_FILLING if name == fdnames.FUSE else name for name, _fd in found)


def _came_through_kexec(name: str, wishes: Wishes, environ: MutableMapping[str, str]) -> bool:
    """Whether systemd carried the instance through a kexec; it is as after an umount then."""
    received = {each: [fd] for each, fd in fdstore.parse_listen_fds(environ, os.getpid())}
    if wishes.kind != "memfd" or not received:
        return False
    from guestmemfs_fuse.cli import carried

    return carried.settle(name, wishes.state_dir, received, environ)


def _become(state_dir: str) -> NoReturn:
    argv = launch.daemon_argv(state_dir)
    sys.stdout.flush()
    os.execv(argv[0], argv)


def _remember(name: str, wishes: Wishes, environ: Mapping[str, str], *, is_lost: bool) -> Wishes:
    """Say what the last boot cost, which the new instance will tell too; note what there is from now on."""
    directory = environ.get("STATE_DIRECTORY", "").split(":")[0]
    if not directory:
        return wishes
    size_bytes = wishes.size_bytes
    assert size_bytes is not None  # unit_config.read
    boot_id = registry.current_boot_id()
    last = remembered.read(directory, name)
    if is_lost and last is not None and last.is_lost(boot_id):
        what = f"the {last.kind} region of instance {name} ({size_text(last.size_bytes)})"
        say(f"note: {what} was of an earlier boot and is gone: starting empty")
        wishes = replace(wishes, replaces=Replaced(last.kind, last.size_bytes))
    now = Remembered(boot_id, wishes.kind or DEFAULT_KIND, size_bytes, wishes.mountpoint)
    try:
        remembered.write(directory, name, now)
    except OSError as error:
        say(
            f"note: {directory} cannot be written ({error.strerror}): the next boot will not say what it cost"
        )
    return wishes
