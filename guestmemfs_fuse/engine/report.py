"""What `status` and `map` say: plain values, gathered from state, region and the kernel.

Nothing is reported that was not measured: huge pages from the region, users from /proc. Blocking (it
scans /proc): the daemon calls it in a thread; the command line calls it itself for a stopped instance.
Keys are the CLI's JSON contract (docs/cli.md).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from guestmemfs_fuse.core.errors import FsError, UnknownTargetError
from guestmemfs_fuse.core.state import Inode, State
from guestmemfs_fuse.engine import mappings
from guestmemfs_fuse.engine.listing import Listing
from guestmemfs_fuse.engine.poison import Poisoned, scan
from guestmemfs_fuse.linux import hwpoison, users
from guestmemfs_fuse.region import hugetlb_figures
from guestmemfs_fuse.region.base import Region

Report = dict[str, Any]


def files(
    listed: Listing, devices: list[users.Dev], region: Region, poisoned: Poisoned | None = None
) -> list[Report]:
    """What is to say of every file listed. Blocks: measures each file and scans /proc once.

    poisoned: what the engine knows of memory errors; None: nobody has looked, do it now.
    """
    return list(rows(listed, devices, region, poisoned))


def rows(
    listed: Listing, devices: list[users.Dev], region: Region, poisoned: Poisoned | None = None
) -> Iterator[Report]:
    """As `files`, one after the other: 100,000 rows at once would be much for the collector."""
    if poisoned is None:
        poisoned = _search(region, [inode for _, inode in listed])
    mapped = mappings.mapped_by(mappings.viewpoint(devices, region), (inode for _, inode in listed))
    opened = users.open_counts(devices) if devices else {}
    for path, inode in listed:
        row = _file(path, inode, region, mapped.get(inode.ino, []), opened.get(inode.ino, 0))
        row["poisoned"] = _errors(inode, poisoned)
        yield row


def one_file(
    state: State, region: Region, path: str, *, served: bool = True, poisoned: Poisoned | None = None
) -> Report:
    """One file and where its memory is; served: see devices_of. Raises UnknownTargetError.

    For a state that nobody changes; where somebody may, `measured` is the part for a thread.
    """
    return measured(path, resolve(state, path), devices_of(state, served=served), region, poisoned)


def measured(
    path: str, inode: Inode, devices: list[users.Dev], region: Region, poisoned: Poisoned | None = None
) -> Report:
    """What `one_file` says of an inode that was found. Blocks; reads no state."""
    mapped = mappings.mapped_beyond(mappings.viewpoint(devices, region), inode, 0)
    opened = users.open_counts(devices).get(inode.ino, 0) if devices else 0
    report = _file(path, inode, region, mapped, opened)
    report["extents"] = [asdict(extent) for extent in region.extents(inode)]
    report["poisoned"] = _errors(inode, _search(region, [inode]) if poisoned is None else poisoned)
    return report


def _search(region: Region, inodes: list[Inode]) -> Poisoned:
    return scan(region, inodes) if hwpoison.corrupted_bytes() else {}


def _errors(inode: Inode, poisoned: Poisoned) -> list[Report]:
    ranges = poisoned.get(inode.ino, [])
    return [{"offset_bytes": start, "length_bytes": end - start} for start, end in ranges]


def region_figures(state: State, region: Region) -> Report:
    """The region's kind and use; of a hugetlb region also what stands behind it."""
    use = region.use()
    found: Report = {
        "kind": region.kind,
        "size_bytes": use.size_bytes,
        "block_bytes": region.block_bytes,
        "used_bytes": use.used_bytes,
        "free_bytes": use.free_bytes,
    }
    if state.free is not None:
        found["hugetlb"] = hugetlb_figures.figures(state.free, state.block_bytes)
    return found


@dataclass(slots=True)
class HugeTally:
    """Huge-page coverage of files together, added up while their rows pass by."""

    huge_bytes: int = 0
    allocated_bytes: int = 0

    def over(self, rows: Iterable[Report]) -> Iterator[Report]:
        """The same rows."""
        for row in rows:
            self.huge_bytes += row["huge_bytes"]
            self.allocated_bytes += row["allocated_bytes"]
            yield row

    def figures(self) -> Report:
        """As `status` says it."""
        return {"bytes": self.huge_bytes, "fraction": _fraction(self.huge_bytes, self.allocated_bytes)}


def huge_figures(rows: Iterable[Report]) -> Report:
    """Huge-page coverage of all files together."""
    tally = HugeTally()
    for _ in tally.over(rows):
        pass
    return tally.figures()


def resolve(state: State, path: str) -> Inode:
    """The inode a path inside the instance leads to (no symbolic links). Raises UnknownTargetError."""
    inode = state.root
    for name in path.strip("/").split("/"):
        if not name:
            continue
        ino = inode.directory.get(os.fsencode(name)) if inode.directory is not None else None
        if ino is None:
            raise UnknownTargetError(f"no file {path}")
        inode = state.inodes[ino]
    return inode


def _file(path: str, inode: Inode, region: Region, mapped: list[users.MappedBy], open_count: int) -> Report:
    try:
        allocated_bytes = region.stat(inode).allocated_bytes
        huge_bytes = region.huge_bytes(inode) if allocated_bytes else 0
    except FsError:
        allocated_bytes = huge_bytes = 0  # fsck's business, not a reason to show nothing
    return {
        **known(path, inode),
        "allocated_bytes": allocated_bytes,
        "huge_bytes": huge_bytes,
        "huge_fraction": _fraction(huge_bytes, allocated_bytes),
        "open_count": open_count,
        "mapped_by": [asdict(user) for user in mapped],
    }


def known(path: str, inode: Inode) -> Report:
    """What is to say of a file without measuring anything."""
    return {
        "path": path,
        "ino": inode.ino,
        "nlink": inode.nlink,
        "size_bytes": inode.size_bytes,
        "pinned": inode.pinned,
        "saved_guest": os.fsdecode(inode.mark) or None,
    }


def devices_of(state: State, *, served: bool = True) -> list[users.Dev]:
    """The superblocks through which processes may use files of this instance.

    served: the session's mount stands; otherwise its number is like those of the mounts before it, which
    count only while no other filesystem has got them.
    """
    current = [state.session.device] if served and state.session is not None else []
    former = [(os.major(device), os.minor(device)) for device in state.devices.difference(current)]
    return [(os.major(device), os.minor(device)) for device in current] + users.unclaimed(former)


def _fraction(part: int, whole: int) -> float:
    return round(min(1.0, part / whole), 4) if whole else 1.0
