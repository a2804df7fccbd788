"""Who keeps an instance busy: what `umount` and `destroy` say when they refuse.

Reads /proc only, as text; the mount itself is never asked. Called by umount and destroy.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from guestmemfs_fuse.linux import mountinfo, users

_SHOWN = 5


@dataclass(frozen=True, slots=True)
class Use:
    """One process and what it does with the instance: "maps 512 MiB", "has 2 files open" ..."""

    pid: int
    comm: str
    what: str

    def __str__(self) -> str:
        return f"{self.comm}[{self.pid}] {self.what}"


def uses_of_files(devices: Iterable[users.Dev]) -> list[Use]:
    """Processes that map or have open any file of these superblocks, mappings first."""
    from guestmemfs_fuse.cli.sizes import size_text

    wanted = tuple(devices)
    if not wanted:
        return []
    mapped: dict[int, users.MappedBy] = {}
    for rows in users.mapped_by(wanted).values():
        for row in rows:
            before = mapped[row.pid].bytes if row.pid in mapped else 0
            mapped[row.pid] = users.MappedBy(row.pid, row.comm, before + row.bytes)
    opened = [each for each in users.opened_by(wanted) if each.pid not in mapped]
    return [Use(each.pid, each.comm, f"maps {size_text(each.bytes)}") for each in mapped.values()] + [
        Use(each.pid, each.comm, f"has {each.count} open") for each in opened
    ]


def uses_of_mount(entry: mountinfo.MountEntry) -> list[Use]:
    """The same for a mount, and who works in a directory of it, and what is mounted inside."""
    found = uses_of_files([entry.dev])
    known = {use.pid for use in found} | {os.getpid()}  # whoever called us from there is named
    for pid in users.pids():
        if pid not in known and (what := _stands_in(pid, entry.mountpoint)) is not None:
            found.append(Use(pid, users.comm_of(pid), what))
    return found


def mounts_inside(entry: mountinfo.MountEntry) -> list[str]:
    """Mountpoints that stand on this mount."""
    return [each.mountpoint for each in mountinfo.read_mounts() if each.parent_id == entry.mount_id]


def described(uses: Iterable[Use]) -> str:
    """At most a handful of them in one line."""
    texts = [str(use) for use in uses]
    more = [f"and {len(texts) - _SHOWN} more"] if len(texts) > _SHOWN else []
    return ", ".join(texts[:_SHOWN] + more)


def _stands_in(pid: int, mountpoint: str) -> str | None:
    for link, what in (("cwd", "works in it"), ("root", "has its root in it")):
        try:
            # The link's text; following it would ask the filesystem.
            target = os.readlink(f"/proc/{pid}/{link}")
        except OSError:
            continue
        if target == mountpoint or target.startswith(mountpoint + "/"):
            return what
    return None
