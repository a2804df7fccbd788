"""Who maps which file, whatever the region's kind.

Through the mount (passthrough) a mapping shows the FUSE file's device and inode. Where files are extents of
one region file (hugetlb, mapped by `guestmemfs run` or by QEMU's offset=), it shows the region file, and
the offset says whose blocks they are. Blocking: scans /proc; only text is read, never through the mount.

Called by engine/report, engine/memory and engine/orphans.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from guestmemfs_fuse.core.state import Inode
from guestmemfs_fuse.core.types import Ino
from guestmemfs_fuse.linux import users
from guestmemfs_fuse.linux.users import Dev, MappedBy
from guestmemfs_fuse.region.base import Region, RegionFile

Mapped = dict[Ino, list[MappedBy]]


@dataclass(frozen=True, slots=True)
class Viewpoint:
    """Where mappings of an instance's files can show: FUSE superblocks, and the region file."""

    devices: tuple[Dev, ...]
    region_file: RegionFile | None
    block_bytes: int


def viewpoint(devices: Iterable[Dev], region: Region) -> Viewpoint:
    """devices: the superblocks of this instance (report.devices_of)."""
    return Viewpoint(tuple(devices), region.region_file, region.block_bytes)


def mapped_by(view: Viewpoint, inodes: Iterable[Inode]) -> Mapped:
    """The processes that map each of these files, by inode number; files nobody maps are left out."""
    listed = list(inodes)
    found: Mapped = {}
    if view.devices:
        seen = users.mapped_by(view.devices)
        found = {inode.ino: seen[inode.ino] for inode in listed if inode.ino in seen}
    if view.region_file is not None:
        for ino, rows in _in_region(view, [(inode, 0) for inode in listed]).items():
            found[ino] = found.get(ino, []) + rows
    return found


def mapped_beyond(view: Viewpoint, inode: Inode, offset_bytes: int) -> list[MappedBy]:
    """The processes that map bytes of the file at or behind offset_bytes."""
    rows = users.mapped_beyond(view.devices, inode.ino, offset_bytes) if view.devices else []
    if view.region_file is not None:
        rows = rows + _in_region(view, [(inode, offset_bytes)]).get(inode.ino, [])
    return rows


def _in_region(view: Viewpoint, wanted: list[tuple[Inode, int]]) -> Mapped:
    """Mappings of the region file that cover blocks of these inodes, from a file offset each."""
    assert view.region_file is not None
    spans = sorted(
        (start, end, inode.ino) for inode, offset in wanted for start, end in _spans(view, inode, offset)
    )
    starts = [start for start, _, _ in spans]
    found: Mapped = {}
    for pid, mappings in users.vmas([view.region_file.dev]):
        covered: dict[Ino, int] = {}
        for vma in mappings:
            if vma.ino != view.region_file.ino:
                continue
            first = max(0, bisect_right(starts, vma.offset_bytes) - 1)
            for start, end, ino in spans[first:]:
                if start >= vma.file_end_bytes:
                    break
                length = min(end, vma.file_end_bytes) - max(start, vma.offset_bytes)
                if length > 0:
                    covered[ino] = covered.get(ino, 0) + length
        for ino, length in covered.items():
            found.setdefault(ino, []).append(MappedBy(pid, users.comm_of(pid), length))
    return found


def _spans(view: Viewpoint, inode: Inode, offset_bytes: int) -> Iterator[tuple[int, int]]:
    """Where in the region file the file's bytes from offset_bytes on are: [start, end) in bytes."""
    at = 0
    for extent in inode.extents:
        length = extent.count * view.block_bytes
        skipped = min(length, max(0, offset_bytes - at))
        start = extent.start * view.block_bytes
        if skipped < length:
            yield start + skipped, start + length
        at += length
