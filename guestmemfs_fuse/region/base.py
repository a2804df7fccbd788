"""What a region is: the memory that is preserved, behind one interface for four kinds.

A region keeps the bytes of regular files, by inode number; it knows nothing of names. The engine calls it;
calls that may take more than about a millisecond (fill, cut, punch, discard, coverage) run in threads, so
an implementation must be safe to be called from several threads for different inodes.

Invariants: no method closes the last reference to guest memory except `discard` (an orphan nobody uses)
and `destroy`. Allocation either happens wholly or not at all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from guestmemfs_fuse.core.errors import InstanceBusyError
from guestmemfs_fuse.core.state import Inode, State
from guestmemfs_fuse.core.types import Extent, Ino
from guestmemfs_fuse.region.freeing import Freeing

Stop = Callable[[], bool]
"""Asked between pieces of long work: whether the caller has given up."""


@dataclass(frozen=True, slots=True)
class BackingStat:
    """What the kernel says of an inode's memory, in bytes."""

    size_bytes: int
    allocated_bytes: int


@dataclass(frozen=True, slots=True)
class RegionUse:
    """Use of the whole region, in bytes; `used_bytes` counts data only, not our metadata."""

    size_bytes: int
    used_bytes: int

    @property
    def free_bytes(self) -> int:
        return max(0, self.size_bytes - self.used_bytes)

    def require_fits(self, size_bytes: int) -> None:
        """Raise InstanceBusyError when a region of size_bytes would not hold what is in use."""
        if size_bytes < self.used_bytes:
            used, wanted = self.used_bytes >> 20, size_bytes >> 20
            raise InstanceBusyError(
                f"{used} MiB of the region are in use, {wanted} MiB would not hold them",
                hint="remove files first, or choose a bigger size",
            )


@dataclass(frozen=True, slots=True)
class Filled:
    """Byte ranges [start, end) that an allocation gave memory to, so that it can be taken back."""

    ranges: tuple[tuple[int, int], ...] = field(default=())


@dataclass(frozen=True, slots=True)
class RegionExtent:
    """A part of a file with memory, in bytes; no region offset where the file has a backing of its own."""

    offset_bytes: int
    length_bytes: int
    region_offset_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class RegionFile:
    """The one file all files are extents of, as /proc/PID/maps shows it: (major, minor) and inode."""

    dev: tuple[int, int]
    ino: int


class Region(Protocol):
    """The interface of all kinds. Sizes and offsets are bytes."""

    kind: str
    block_bytes: int
    passthrough: bool
    """Whether the kernel can map backing files through the mount (needs one backing file per inode)."""
    region_file: RegionFile | None
    """Where files are extents of one file: that file."""
    backing_dir_fd: int | None
    """Where backing files have names, their inode numbers in hexadecimal: the directory they stand in."""
    freeing: Freeing
    """What is given back beside everything else; to begin when nothing refers to what was discarded."""

    def create(self, ino: Ino) -> None:
        """Make an empty backing for a new regular file; what an unacknowledged create left is emptied."""

    def open_backing(self, ino: Ino) -> int:
        """A new read-write file descriptor to register as the inode's backing. The caller closes it.

        Where the region cannot be mapped through the mount: one whose mmap the kernel refuses.
        """

    def foresee(self, inode: Inode, end_bytes: int) -> None:
        """Right before `fill`, but on the event loop: look up what depends on the state. Quick.

        Raises RegionFullError.
        """

    def fill(self, inode: Inode, offset_bytes: int, end_bytes: int, stop: Stop) -> Filled:
        """Give memory to every hole in whole blocks around [offset, end), before the change is journaled.

        Raises RegionFullError when region or host memory do not suffice, InterruptedFsError when
        `stop()` came true; in both cases everything is as it was.
        """

    def take_back(self, ino: Ino, filled: Filled) -> None:
        """Undo `fill`."""

    def settle(self, inode: Inode) -> None:
        """Make the backing agree with the inode's (journaled) size and preallocation. Idempotent."""

    def punch(self, inode: Inode, offset_bytes: int, length_bytes: int) -> None:
        """Let bytes read as zero and give their whole pages back."""

    def discard(self, inode: Inode) -> None:
        """Give up the memory of an inode that is gone; large ones by `freeing`. Idempotent."""

    def release(self, extents: tuple[Extent, ...]) -> None:
        """Blocks that were cut off a file and belong to nobody now. Nothing, where files have backings."""

    def stat(self, inode: Inode) -> BackingStat:
        """Size and memory of one file, as the kernel has them now."""

    def extents(self, inode: Inode) -> list[RegionExtent]:
        """Which parts of the file have memory, used or not, in order; neighbours are joined."""

    def seek(self, inode: Inode, offset_bytes: int, whence: int) -> int:
        """lseek(2) SEEK_DATA or SEEK_HOLE. Raises NoDataThereError."""

    def use(self) -> RegionUse:
        """How full the region is."""

    def huge_bytes(self, inode: Inode) -> int:
        """How many bytes of the file are in huge pages, as the kernel reports it."""

    def poisoned(self, inode: Inode) -> list[tuple[int, int]]:
        """Ranges [start, end) of the file, in bytes, whose memory the kernel has lost to errors."""

    def inventory(self) -> Iterator[Ino]:
        """Every inode number that has a backing."""

    def resize(self, size_bytes: int) -> None:
        """Grow or shrink the region, when `freeing` has nothing left to do: to the kernel that is in use.

        Raises InstanceBusyError below its use, OutOfMemoryError.
        """

    def layout(self, inode: Inode) -> dict[str, object]:
        """Where a process that cannot map through the mount finds the file's bytes.

        Keys: kind, page_bytes, passthrough, path (of the region or backing file), size_bytes and
        segments [[file_offset, region_offset, length]], all in bytes.
        """


class OpenRegion(Region, Protocol):
    """A region together with the directory its metadata lives in."""

    @property
    def metadata_path(self) -> str:
        """Directory of journal and snapshot."""

    def attach(self, state: State) -> None:
        """Take the state whose files these are, once it is loaded."""

    def holds_data(self) -> bool:
        """Whether there are files' bytes in the region: then it must not be started afresh."""

    def handover_fds(self) -> dict[str, list[int]]:
        """Descriptors a successor needs, by their names in the fd store."""

    def close(self) -> None:
        """Let go of descriptors; no memory is given up."""
