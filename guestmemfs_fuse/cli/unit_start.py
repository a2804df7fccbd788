"""Starting a unit: afresh from its configuration, or on with the mount that systemd kept for it.

Invariant: a live mount never depends on the configuration file, which somebody may be editing while the
daemon is killed. Called by `serve`; ends by becoming the daemon.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import NoReturn

from guestmemfs_fuse.cli import unit_config
from guestmemfs_fuse.cli.output import say
from guestmemfs_fuse.cli.sizes import size_text
from guestmemfs_fuse.cli.wishes import Wishes
from guestmemfs_fuse.handover import fdnames, fdstore, launch
from guestmemfs_fuse.metadata import instance as registry
from guestmemfs_fuse.metadata.instance import InstanceConfig


def start_unit(name_or_path: str, environ: Mapping[str, str]) -> None:
    """Become the daemon. environ: systemd's (LISTEN_*, STATE_DIRECTORY). Raises GuestmemfsError."""
    path = unit_config.path_of(name_or_path)
    name = unit_config.name_of(path)
    if is_live(name, environ):
        _become(registry.state_dir_of(name))
    wishes = unit_config.read(path)
    os.makedirs(wishes.mountpoint, exist_ok=True)
    _say_what_a_boot_cost(name, wishes, environ)
    from guestmemfs_fuse.cli.mounting import mount_instance

    mount_instance(wishes)


def is_live(name: str, environ: Mapping[str, str]) -> bool:
    """Whether systemd hands us the connection of a mount that stands: then nothing is to be checked."""
    from guestmemfs_fuse.cli import sight

    received = {each for each, _fd in fdstore.parse_listen_fds(environ, os.getpid())}
    if fdnames.FUSE not in received:
        return False
    with suppress(FileNotFoundError, NotADirectoryError):
        config = InstanceConfig.load(registry.state_dir_of(name))
        return sight.our_mount(config.mountpoint) is not None
    return False


def _become(state_dir: str) -> NoReturn:
    argv = launch.daemon_argv(state_dir)
    sys.stdout.flush()
    os.execv(argv[0], argv)


def _say_what_a_boot_cost(name: str, wishes: Wishes, environ: Mapping[str, str]) -> None:
    """What lives in /run leaves no trace of an earlier boot; systemd's StateDirectory= keeps one."""
    directory = environ.get("STATE_DIRECTORY", "").split(":")[0]
    if not directory:
        return
    path, boot_id = os.path.join(directory, name + ".json"), registry.current_boot_id()
    with suppress(OSError, ValueError, KeyError, TypeError):
        with open(path, encoding="utf-8") as file:
            last = json.load(file)
        if last["boot_id"] != boot_id and last["kind"] != "dax":
            what = f"the {last['kind']} region of instance {name} ({size_text(last['size_bytes'])})"
            say(f"note: {what} was of an earlier boot and is gone: starting empty")
    kept = {"boot_id": boot_id, "kind": wishes.kind or "tmpfs", "size_bytes": wishes.size_bytes}
    try:
        with open(path + ".new", "w", encoding="utf-8") as file:
            json.dump(kept, file)
        os.rename(path + ".new", path)
    except OSError as error:
        say(f"note: {path} cannot be written ({error.strerror}): the next boot will not say what it cost")
