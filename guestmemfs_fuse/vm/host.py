"""Every guest of this host: which processes map files of our mounts, and how their monitors are reached.

What maps is asked of the daemons (`status`, mapped_by), how to talk to it is read from its command line.
Other programs map guest memory too (vhost-user back ends): a guest is what has a monitor, or calls itself
QEMU.
`monitor_paths` and `name_in` are pure. Called by cli/vm*.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from guestmemfs_fuse.control import client
from guestmemfs_fuse.core.errors import GuestmemfsError
from guestmemfs_fuse.linux import mountinfo
from guestmemfs_fuse.metadata import instance as registry
from guestmemfs_fuse.metadata.instance import Instance
from guestmemfs_fuse.vm import process

_UNSAFE = re.compile(r"[^A-Za-z0-9_.:+-]+")


@dataclass(frozen=True, slots=True)
class RunningGuest:
    """A VMM that maps files of ours. monitors: QMP sockets, as seen from here, best first."""

    name: str
    pid: int
    ram_paths: tuple[str, ...]
    monitors: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class RestingGuest:
    """A file that holds a saved guest; state_path is what its mark says."""

    ram_path: str
    state_path: str


@dataclass(frozen=True, slots=True)
class Survey:
    """What there is on this host. problems: instances that could not be asked, and why.

    unmounted: instances that nobody can be asked about; guests may rest in them.
    """

    running: tuple[RunningGuest, ...]
    resting: tuple[RestingGuest, ...]
    problems: tuple[str, ...]
    unmounted: tuple[Instance, ...]


def survey(target: str | None = None) -> Survey:
    """Ask every mounted instance, or only TARGET. Raises UnknownTargetError."""
    files, problems, unmounted = [], [], []
    for each in _instances(target):
        if mountinfo.of_instance(each.config.mountpoint, each.name) is None:
            unmounted.append(each)
            continue
        try:
            files += list(_files(each))
        except GuestmemfsError as error:
            problems.append(f"instance {each.name} cannot be asked: {error.message}")
    by_pid: dict[int, list[str]] = {}
    for path, row in files:
        for user in row["mapped_by"]:
            by_pid.setdefault(int(user["pid"]), []).append(path)
    running = [guest for pid, paths in by_pid.items() if (guest := _guest(pid, paths)) is not None]
    resting = [RestingGuest(path, row["saved_guest"]) for path, row in files if row["saved_guest"]]
    return Survey(tuple(_with_own_names(running)), tuple(resting), tuple(problems), tuple(unmounted))


def _instances(target: str | None) -> list[Instance]:
    if target is not None:
        return [registry.find(target)]
    return [each for each in registry.all_instances() if isinstance(each, Instance)]


def _files(instance: Instance) -> Iterator[tuple[str, Mapping[str, Any]]]:
    shown = client.call(instance.paths.state_dir, "status", wait_s=client.RESTART_WAIT_S)
    assert isinstance(shown, dict)
    for row in shown["files"]:
        inside = row["path"] or f"/(unlinked, inode {row['ino']})"
        yield instance.config.mountpoint + inside, row


def _guest(pid: int, paths: list[str]) -> RunningGuest | None:
    try:
        command, directory = process.command_of(pid)
        monitors = monitor_paths(command, directory)
        root = os.readlink(f"/proc/{pid}/root")
    except OSError:
        return None  # it ended meanwhile
    if not monitors and "qemu" not in os.path.basename(command[0]):
        return None
    if root != "/":
        monitors = tuple(Path(root, *path.parts[1:]) for path in monitors)
    name = name_in(command) or os.path.basename(paths[0])
    return RunningGuest(_UNSAFE.sub("_", name), pid, tuple(sorted(paths)), monitors)


def _with_own_names(guests: list[RunningGuest]) -> Iterator[RunningGuest]:
    """Two guests of one name get their pids into their names: a state file is named after its guest."""
    names = [guest.name for guest in guests]
    for guest in sorted(guests, key=lambda each: (each.name, each.pid)):
        name = guest.name if names.count(guest.name) == 1 else f"{guest.name}-{guest.pid}"
        yield RunningGuest(name, guest.pid, guest.ram_paths, guest.monitors)


# -- QEMU's command line -----------------------------------------------------------------------------------


def monitor_paths(command: Sequence[str], directory: str) -> tuple[Path, ...]:
    """Unix sockets on which a QEMU with this command line listens for QMP. Pure.

    Knows -qmp, -qmp-pretty (`unix:PATH,...`) and -mon mode=control with its -chardev socket,path=. A monitor
    on a descriptor that QEMU inherited (libvirt) or on TCP has no path.
    """
    chardevs, wanted, direct = {}, [], []
    for option, value in _options(command):
        if option in ("qmp", "qmp-pretty") and value.startswith("unix:"):
            direct.append(_split(value.removeprefix("unix:"))[0])
        elif option == "chardev":
            fields = _fields(value)
            if "path" in fields and "id" in fields:
                chardevs[fields["id"]] = fields["path"]
        elif option == "mon":
            fields = _fields(value, implied="chardev")
            if fields.get("mode") == "control":
                wanted.append(fields.get("chardev", ""))
    found = [*direct, *(chardevs[name] for name in wanted if name in chardevs)]
    return tuple(Path(directory, path) for path in dict.fromkeys(found))


def name_in(command: Sequence[str]) -> str | None:
    """The guest's name as -name gives it, or None. Pure."""
    names = [
        _fields(value, implied="guest").get("guest")
        for option, value in _options(command)
        if option == "name"
    ]
    return next((name for name in reversed(names) if name), None)


def _options(command: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(option, value) for each option that has one; QEMU takes one dash or two."""
    for option, value in pairwise(command[1:]):
        if option.startswith("-"):
            yield option.lstrip("-"), value


def _fields(value: str, implied: str = "") -> dict[str, str]:
    """KEY=VALUE,... as QEMU's options have them; the first part may leave out the key `implied`."""
    fields = {}
    for at, part in enumerate(_split(value)):
        key, equals, text = part.partition("=")
        if equals:
            fields[key] = text
        elif at == 0 and implied:
            fields[implied] = key
    return fields


def _split(value: str) -> list[str]:
    """The parts between commas; a doubled comma is one that belongs to the text (QEMU's qemu-options)."""
    return [part.replace("\0", ",") for part in value.replace(",,", "\0").split(",")]
