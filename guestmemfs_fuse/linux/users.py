"""Who maps or has open the files of a FUSE superblock.

Called by the daemon in a thread (status, shrink and destroy refusals), so the one hard rule: never open,
stat or follow anything that leads through the mount, or the daemon would wait for itself. Only the text of
/proc/PID/{maps,fdinfo,mountinfo} and the target of ns/root links is read; none of that asks a filesystem.

A VMA of a passthrough file shows device and inode of the FUSE file (file_user_inode() in show_map_vma(),
fs/proc/task_mmu.c), although its pages are the backing file's. Invariant: processes that go away meanwhile,
or that we may not look at, are skipped.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from guestmemfs_fuse.linux import mountinfo

Dev = tuple[int, int]


@dataclass(frozen=True, slots=True)
class MappedBy:
    """One process that maps a file: how many bytes of address space, over all its mappings of it."""

    pid: int
    comm: str
    bytes: int


@dataclass(frozen=True, slots=True)
class OpenedBy:
    """One process that has files open: how many descriptors."""

    pid: int
    comm: str
    count: int


@dataclass(frozen=True, slots=True)
class Vma:
    """A file mapping as a line of /proc/PID/maps shows it; [start, end) are addresses."""

    start: int
    end: int
    offset_bytes: int
    dev: Dev
    ino: int

    @property
    def file_end_bytes(self) -> int:
        """File offset just behind the last mapped byte."""
        return self.offset_bytes + self.end - self.start


def unclaimed(devs: Iterable[Dev]) -> list[Dev]:
    """Those of a superblock's former device numbers that no mounted filesystem has now.

    An anonymous number is given anew as soon as its superblock is gone (get_anon_bdev() in fs/super.c), and
    its new owner's users are not ours. As long as somebody maps a file, the superblock is not gone.
    """
    wanted = list(devs)
    if not wanted:
        return []
    claimed = {mount.dev for mount in _all_mounts()}
    return [dev for dev in wanted if dev not in claimed]


def _all_mounts() -> Iterator[mountinfo.MountEntry]:
    """The mounts of every mount namespace that has a process: services and containers have their own.

    A process in a chroot is shown only the mounts below it, so one of every root is asked.
    """
    seen: set[tuple[str, str]] = set()
    for pid in pids():
        try:
            view = (os.readlink(f"/proc/{pid}/ns/mnt"), os.readlink(f"/proc/{pid}/root"))
            if view not in seen:
                yield from mountinfo.read_mounts(pid)
                seen.add(view)
        except OSError:
            continue


def dev_field(dev: Dev) -> bytes:
    """How maps prints a device, with the blanks around it: seq_put_hex_ll(), at least two digits each."""
    return b" %02x:%02x " % dev


def parse_maps(raw: bytes, devs: Iterable[Dev]) -> list[Vma]:
    """VMAs of files on these devices. raw: the content of /proc/PID/maps."""
    fields = {dev_field(dev): dev for dev in devs}
    if not any(field in raw for field in fields):
        return []
    found = []
    for line in raw.split(b"\n"):
        parts = line.split(None, 5)
        if len(parts) < 5:
            continue
        dev = fields.get(b" %b " % parts[3])
        if dev is None:
            continue
        start, _, end = parts[0].partition(b"-")
        found.append(Vma(int(start, 16), int(end, 16), int(parts[2], 16), dev, int(parts[4])))
    return found


def vmas(devs: Iterable[Dev]) -> Iterator[tuple[int, list[Vma]]]:
    """Every process that maps files of these superblocks, by pid, with its mappings of them."""
    wanted = tuple(devs)
    for pid in pids():
        raw = next(filter(None, (_read(f"{place}/maps") for place in _shown(pid))), b"")
        found = parse_maps(raw, wanted)
        if found:
            yield pid, found


def mapped_by(devs: Iterable[Dev]) -> dict[int, list[MappedBy]]:
    """Every file of these superblocks that is mapped: inode number -> the processes, by pid."""
    found: dict[int, list[MappedBy]] = {}
    for pid, mappings in vmas(devs):
        by_inode: dict[int, int] = {}
        for vma in mappings:
            by_inode[vma.ino] = by_inode.get(vma.ino, 0) + vma.end - vma.start
        comm = comm_of(pid)
        for ino, length_bytes in by_inode.items():
            found.setdefault(ino, []).append(MappedBy(pid, comm, length_bytes))
    return found


def mapped_beyond(devs: Iterable[Dev], ino: int, offset_bytes: int) -> list[MappedBy]:
    """Processes with a mapping of the file that reaches beyond offset_bytes.

    bytes counts only what lies at or behind the offset. A mapping that ends exactly there does not count.
    """
    found = []
    for pid, mappings in vmas(devs):
        beyond = sum(
            vma.file_end_bytes - max(vma.offset_bytes, offset_bytes)
            for vma in mappings
            if vma.ino == ino and vma.file_end_bytes > offset_bytes
        )
        if beyond:
            found.append(MappedBy(pid, comm_of(pid), beyond))
    return found


def open_counts(devs: Iterable[Dev]) -> dict[int, int]:
    """Open file descriptors per inode number, over all processes (a dup or an inherited fd counts again)."""
    counts: dict[int, int] = {}
    for _pid, ino in _open_files(devs):
        counts[ino] = counts.get(ino, 0) + 1
    return counts


def opened_by(devs: Iterable[Dev]) -> list[OpenedBy]:
    """The processes that have anything open on these superblocks, by pid."""
    counts: dict[int, int] = {}
    for pid, _ino in _open_files(devs):
        counts[pid] = counts.get(pid, 0) + 1
    return [OpenedBy(pid, comm_of(pid), count) for pid, count in counts.items()]


def _open_files(devs: Iterable[Dev]) -> Iterator[tuple[int, int]]:
    """(pid, inode number) of every open descriptor on these superblocks."""
    wanted = frozenset(devs)
    # Ids are the whole system's (mnt_alloc_id(), fs/namespace.c): a process may have descriptors from
    # another namespace, brought along or sent.
    mount_ids = frozenset(b"%d" % mount.mount_id for mount in _all_mounts() if mount.dev in wanted)
    if not mount_ids:
        return
    for pid in pids():
        opened = ([f"{place}/fdinfo/{fd}" for fd in _names_in(f"{place}/fdinfo")] for place in _shown(pid))
        for path in next(filter(None, opened), []):
            ino = parse_fdinfo(_read(path), mount_ids)
            if ino is not None:
                yield pid, ino


def parse_fdinfo(raw: bytes, mount_ids: frozenset[bytes]) -> int | None:
    """Inode number when the descriptor is on one of these mounts, else None. raw: /proc/PID/fdinfo/FD."""
    ino = mount_id = None
    for line in raw.split(b"\n"):
        key, _, value = line.partition(b":")
        if key == b"mnt_id":
            mount_id = value.strip()
        elif key == b"ino":
            ino = int(value)
    return ino if mount_id in mount_ids else None


def pids() -> list[int]:
    """Every process there is, ascending."""
    return sorted(int(name) for name in os.listdir("/proc") if name.isdigit())


def _shown(pid: int) -> Iterator[str]:
    """Where /proc shows a process. Once its first thread has ended, only at the others, which still store."""
    yield f"/proc/{pid}"
    for thread in _names_in(f"/proc/{pid}/task"):
        if thread != str(pid):
            yield f"/proc/{pid}/task/{thread}"


def _names_in(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _read(path: str) -> bytes:
    """A /proc file's content, empty when the process or descriptor went away or is not ours to see."""
    try:
        with open(path, "rb", buffering=0) as file:
            return file.read()
    except OSError:
        return b""


def comm_of(pid: int) -> str:
    """The process's name, or "?" when it is gone."""
    return os.fsdecode(_read(f"/proc/{pid}/comm")).rstrip("\n") or "?"
