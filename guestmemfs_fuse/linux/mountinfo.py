"""What is mounted where, from /proc/PID/mountinfo.

Pure parser plus one reader. Invariant: nothing here stats or opens a mountpoint, so a FUSE mount whose
daemon is dead can neither hang nor fail it. Called by the daemon, the CLI, `users` and the probes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

OURS: Final = "fuse.guestmemfs"
"""The type mount tables show for our mounts (fuse/device mounts them)."""


@dataclass(frozen=True, slots=True)
class MountEntry:
    """One line of mountinfo (proc_pid_mountinfo(5)); all paths with octal escapes undone."""

    mount_id: int
    parent_id: int
    major: int
    minor: int
    root: str
    mountpoint: str
    options: str
    fstype: str
    source: str
    super_options: str

    @property
    def dev(self) -> tuple[int, int]:
        """(major, minor) of the superblock, as /proc/PID/maps shows it."""
        return self.major, self.minor

    def super_option(self, name: str) -> str | None:
        """Value of a superblock option; "" for a flag that is set, None when it is absent."""
        for option in self.super_options.split(","):
            key, _, value = option.partition("=")
            if key == name:
                return value
        return None


def unescape(text: str) -> str:
    """Undo the kernel's octal escapes (\\040 for a space and so on: mangle() in fs/seq_file.c)."""
    if "\\" not in text:
        return text
    raw = os.fsencode(text)
    out = bytearray()
    i = 0
    while i < len(raw):
        digits = raw[i + 1 : i + 4]
        if raw[i] == 0x5C and len(digits) == 3 and all(0x30 <= d <= 0x37 for d in digits):
            out.append(int(digits, 8) & 0xFF)
            i += 4
        else:
            out.append(raw[i])
            i += 1
    return os.fsdecode(bytes(out))


def parse_line(line: str) -> MountEntry:
    """Parse one line. Raises ValueError when it has not the fields of proc_pid_mountinfo(5)."""
    fields = line.rstrip("\n").split(" ")
    # Between field 6 and the lone "-" come any number of optional fields (shared:N, master:N).
    try:
        dash = fields.index("-", 6)
        major, minor = fields[2].split(":")
        fstype, source, super_options = fields[dash + 1 : dash + 4]
        return MountEntry(
            mount_id=int(fields[0]),
            parent_id=int(fields[1]),
            major=int(major),
            minor=int(minor),
            root=unescape(fields[3]),
            mountpoint=unescape(fields[4]),
            options=fields[5],
            fstype=unescape(fstype),
            source=unescape(source),
            super_options=unescape(super_options),
        )
    except (ValueError, IndexError) as error:
        raise ValueError(f"not a mountinfo line: {line!r}") from error


def parse(text: str) -> list[MountEntry]:
    """Parse a whole mountinfo file, in its order."""
    return [parse_line(line) for line in text.split("\n") if line]


def read_mounts(pid: int | str = "self") -> list[MountEntry]:
    """Mounts that process `pid` sees. Raises OSError (ENOENT, ESRCH when it is gone)."""
    with open(f"/proc/{pid}/mountinfo", "rb") as file:
        return parse(os.fsdecode(file.read()))


def find(mounts: Iterable[MountEntry], mountpoint: str) -> MountEntry | None:
    """The topmost mount exactly at `mountpoint`, or None.

    mountpoint: an absolute path without symbolic links (the caller resolves its parent, never itself).
    """
    wanted = os.path.normpath(mountpoint)
    found = [m for m in mounts if m.mountpoint == wanted]
    # A mount on top of another has it as its parent; the file's order is that of creation, not of attaching.
    covered = {m.parent_id for m in found if m.parent_id != m.mount_id}
    return next((m for m in reversed(found) if m.mount_id not in covered), None)


def of_instance(mountpoint: str, name: str) -> MountEntry | None:
    """The mount at mountpoint when it is that instance's: another one may be mounted there by now."""
    entry = find_mountpoint(mountpoint, OURS)
    return entry if entry is not None and entry.source == name else None


def find_mountpoint(mountpoint: str, fstype: str | None = None) -> MountEntry | None:
    """`find` in this process's own mounts; with fstype only when that is what stands there."""
    entry = find(read_mounts(), mountpoint)
    return entry if entry is None or fstype in (None, entry.fstype) else None
