"""Which file of which region a program's descriptor denotes.

Everything comes from /proc/TID (fdinfo, mountinfo), never from a stat through the mount: a mount whose
daemon is away would block the tracer, and with it every program it traces.

Owns: one open mountinfo per mount namespace, which poll(2) says when it has changed. Each keeps its namespace
and all mounts in it alive, so foreign ones are closed whenever a traced process is gone. Called by the
rewriter; who knows regions and layouts is a `Resolver` (instances.py, or a table in the tests).
"""

from __future__ import annotations

import os
import select
from dataclasses import dataclass
from typing import Protocol

from guestmemfs_fuse.linux import mountinfo
from guestmemfs_fuse.linux.mountinfo import MountEntry
from guestmemfs_fuse.redirect.layout import Layout


@dataclass(frozen=True, slots=True)
class RegionFacts:
    """What holds for every file of a mount."""

    kind: str
    page_bytes: int


class Resolver(Protocol):
    """Knows our mounts and asks for layouts."""

    def region_of(self, mount: MountEntry) -> RegionFacts | None:
        """None when the mount is not one of ours. Raises GuestmemfsError when it is but cannot be known."""

    def layout(self, mount: MountEntry, ino: int) -> Layout:
        """Where the bytes of one file are now. Raises GuestmemfsError when nobody can say."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file of ours that a descriptor denotes; open_flags are those of open(2) as fdinfo has them."""

    mount: MountEntry
    region: RegionFacts
    ino: int
    open_flags: int
    name: str

    @property
    def access_mode(self) -> int:
        """O_RDONLY, O_WRONLY or O_RDWR."""
        return self.open_flags & os.O_ACCMODE

    @property
    def is_path_only(self) -> bool:
        """Opened with O_PATH: the kernel maps nothing through it."""
        return bool(self.open_flags & os.O_PATH)


@dataclass(frozen=True, slots=True)
class FdInfo:
    """What /proc/PID/fdinfo/FD has on every kind of file (proc_pid_fdinfo(5); ino since Linux 5.14)."""

    mount_id: int
    ino: int
    open_flags: int


def parse_fdinfo(text: str) -> FdInfo:
    """Raises ValueError when a field is missing."""
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    try:
        return FdInfo(int(fields["mnt_id"]), int(fields["ino"]), int(fields["flags"], 8))
    except KeyError as error:
        raise ValueError(f"fdinfo without {error}") from error


class _Namespace:
    """The mounts of one mount namespace, read again when they changed."""

    def __init__(self, pid: int | str) -> None:
        self._fd = os.open(f"/proc/{pid}/mountinfo", os.O_RDONLY | os.O_CLOEXEC)
        self._poll = select.poll()
        # mounts_poll() in fs/proc_namespace.c: POLLERR | POLLPRI once after every change
        self._poll.register(self._fd, select.POLLPRI)
        self._mounts: dict[int, MountEntry] = {}
        self._read()

    def mount(self, mount_id: int) -> MountEntry | None:
        if self._poll.poll(0):
            self._read()
        return self._mounts.get(mount_id)

    def close(self) -> None:
        os.close(self._fd)

    def _read(self) -> None:
        chunks = []
        offset = 0
        while chunk := os.pread(self._fd, 1 << 20, offset):
            chunks.append(chunk)
            offset += len(chunk)
        entries = mountinfo.parse(os.fsdecode(b"".join(chunks)))
        self._mounts = {entry.mount_id: entry for entry in entries}


class Locator:
    """Finds files of ours behind the descriptors of traced threads."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._own_name = os.readlink("/proc/self/ns/mnt")
        # A process in a chroot is shown only the mounts below it: better look for ourselves.
        self._own = _Namespace("self")
        self._others: dict[str, _Namespace] = {}

    def of_fd(self, tid: int, fd: int) -> FoundFile | None:
        """The file of ours that descriptor fd of a thread denotes, or None.

        Raises GuestmemfsError as `Resolver.region_of`.
        """
        try:
            with open(f"/proc/{tid}/fdinfo/{fd}") as file:
                info = parse_fdinfo(file.read())
            found = self._found(tid, info)
            if found is None:
                return None
            name = os.readlink(f"/proc/{tid}/fd/{fd}")
        except (OSError, ValueError):
            # A bad descriptor, or a thread just killed: the kernel will say so itself.
            return None
        return FoundFile(found[0], found[1], info.ino, info.open_flags, name)

    def forget_others(self) -> None:
        """Let go of foreign namespaces: they must not outlive those who are in them."""
        for namespace in self._others.values():
            namespace.close()
        self._others.clear()

    def _found(self, tid: int, info: FdInfo) -> tuple[MountEntry, RegionFacts] | None:
        mount = self._mount(tid, info.mount_id)
        region = self._resolver.region_of(mount) if mount else None
        return (mount, region) if mount and region else None

    def _mount(self, tid: int, mount_id: int) -> MountEntry | None:
        # Ids are the whole system's (mnt_alloc_id(), fs/namespace.c), and a descriptor may have come along
        # from our namespace into another one.
        mount = self._own.mount(mount_id)
        name = os.readlink(f"/proc/{tid}/ns/mnt")
        if mount is not None or name == self._own_name:
            return mount
        known = self._others.get(name)
        if known is not None and (mount := known.mount(mount_id)) is not None:
            return mount
        # New to us, or its root has moved since (pivot_root): a mountinfo shows what was below the root that
        # its process had when it was opened.
        fresh = _Namespace(tid)
        if known is not None:
            known.close()
        self._others[name] = fresh
        return fresh.mount(mount_id)
