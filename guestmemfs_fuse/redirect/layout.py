"""Where a file's bytes really are, and which mappings a request for it therefore becomes. Pure.

A `Layout` is what the daemon says of one inode. Three shapes:
  region_path None            the kernel maps it through the mount (passthrough); nothing is redirected
  region_path, no segments    the file has a backing file of its own: same offsets, any length
  region_path and segments    the file is extents of one hugetlbfs file

Invariant, for extents: a plan maps exactly the file's own blocks, never a byte that is not in its segments,
not even for a moment (no "map it all, then correct it"). Called by the rewriter and by tests.
"""

from __future__ import annotations

import errno
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from guestmemfs_fuse.core.errors import DaemonError, GuestmemfsError
from guestmemfs_fuse.redirect import arch


class RefusedMappingError(GuestmemfsError):
    """A request the kernel would refuse on such a file too; errno says with what."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.errno = number


@dataclass(frozen=True, slots=True)
class Segment:
    """`length_bytes` of the file from `file_offset_bytes` on are in the region at `region_offset_bytes`."""

    file_offset_bytes: int
    region_offset_bytes: int
    length_bytes: int


@dataclass(frozen=True, slots=True)
class Layout:
    """One file of a region. segments ascend by file offset without gaps and are whole pages long."""

    kind: str
    page_bytes: int
    region_path: str | None
    segments: tuple[Segment, ...] = ()

    @property
    def has_extents(self) -> bool:
        """Whether the file is pieces of one region file (the hugetlb kind), be they none."""
        return self.kind == "hugetlb"

    @classmethod
    def from_reply(cls, reply: Mapping[str, Any]) -> Layout:
        """From the daemon's answer to "layout" (see Region.layout).

        Raises DaemonError when the answer is not one.
        """
        try:
            layout = cls(
                kind=str(reply["kind"]),
                page_bytes=int(reply["page_bytes"]),
                region_path=None if reply["passthrough"] else str(reply["path"]),
            )
            if not layout.has_extents:
                return layout
            return replace(layout, segments=tuple(Segment(*map(int, row)) for row in reply["segments"]))
        except (KeyError, TypeError, ValueError) as error:
            raise DaemonError(f"the daemon's layout of a file makes no sense: {dict(reply)!r}") from error


@dataclass(frozen=True, slots=True)
class MmapRequest:
    """The arguments of one mmap call, as the program gave them."""

    address: int
    length_bytes: int
    prot: int
    flags: int
    fd: int
    offset_bytes: int

    @property
    def is_fixed(self) -> bool:
        """Whether the address is an order, not a hint."""
        return bool(self.flags & (arch.MAP_FIXED | arch.MAP_FIXED_NOREPLACE))

    @property
    def is_private(self) -> bool:
        """Whether writes are to stay in this process."""
        return self.flags & arch.MAP_TYPE == arch.MAP_PRIVATE

    @property
    def is_writable(self) -> bool:
        """Whether the mapping itself allows writes."""
        return bool(self.prot & arch.PROT_WRITE)


@dataclass(frozen=True, slots=True)
class Piece:
    """One mmap call of a plan; delta_bytes is its distance from the start of the whole mapping."""

    delta_bytes: int
    length_bytes: int
    flags: int
    offset_bytes: int


@dataclass(frozen=True, slots=True)
class Plan:
    """The mmap calls a request becomes, in order.

    region_path: the file to map, None for the program's own descriptor. reserve: first find a free range
    for the whole (with the region file itself, so that hugetlbfs chooses an aligned one) and put the pieces
    over it; its flags are `flags`.
    """

    region_path: str | None
    pieces: tuple[Piece, ...]
    reserve_bytes: int = 0
    reserve_flags: int = 0

    @property
    def length_bytes(self) -> int:
        """Length of the whole mapping."""
        return sum(piece.length_bytes for piece in self.pieces)


def plan(request: MmapRequest, layout: Layout, *, share: bool, fd_is_writable: bool) -> Plan:
    """What to do instead of `request`.

    share: make a private mapping of guest memory shared. fd_is_writable: the program opened the file for
    writing (without that it cannot have a shared writable mapping). Raises RefusedMappingError.
    """
    flags = _flags(request, layout, share and fd_is_writable)
    if not layout.has_extents:
        piece = Piece(0, request.length_bytes, flags, request.offset_bytes)
        return Plan(layout.region_path, (piece,))
    length_bytes = _checked_length(request, layout)
    runs = _runs(layout.segments, request.offset_bytes, length_bytes)
    if sum(run_bytes for run_bytes, _ in runs) != length_bytes:
        raise RefusedMappingError(errno.EINVAL, "the file has no memory at the end of that range")
    if len(runs) == 1:
        return Plan(layout.region_path, (Piece(0, length_bytes, flags, runs[0][1]),))
    fixed = flags & ~arch.MAP_FIXED_NOREPLACE | arch.MAP_FIXED
    pieces = []
    delta_bytes = 0
    for run_bytes, region_offset_bytes in runs:
        pieces.append(Piece(delta_bytes, run_bytes, fixed, region_offset_bytes))
        delta_bytes += run_bytes
    # With both flags the kernel replaces nothing either (do_mmap(), mm/mmap.c).
    if request.flags & (arch.MAP_FIXED | arch.MAP_FIXED_NOREPLACE) == arch.MAP_FIXED:
        return Plan(layout.region_path, tuple(pieces))
    keep = request.flags & (arch.MAP_FIXED_NOREPLACE | arch.MAP_32BIT)
    reserve_flags = arch.MAP_PRIVATE | arch.MAP_NORESERVE | keep
    return Plan(layout.region_path, tuple(pieces), length_bytes, reserve_flags)


def _flags(request: MmapRequest, layout: Layout, may_share: bool) -> int:
    if request.is_private and request.is_writable and may_share:
        return request.flags & ~arch.MAP_TYPE | arch.MAP_SHARED
    if layout.has_extents and request.is_private and not request.is_writable:
        # The kernel reserves a second set of huge pages for any private mapping (hugetlb_reserve_pages),
        # and the region has them all: reading must not need them.
        return request.flags | arch.MAP_NORESERVE
    return request.flags


def _checked_length(request: MmapRequest, layout: Layout) -> int:
    """The length in whole pages, as the kernel rounds it for hugetlbfs (ksys_mmap_pgoff)."""
    page_bytes = layout.page_bytes
    if request.length_bytes <= 0:
        raise RefusedMappingError(errno.EINVAL, "a mapping of no bytes")
    if request.offset_bytes % page_bytes:
        raise RefusedMappingError(errno.EINVAL, f"offset {request.offset_bytes:#x} is not a page's")
    if request.is_fixed and request.address % page_bytes:
        raise RefusedMappingError(errno.EINVAL, f"address {request.address:#x} is not a page's")
    return -(-request.length_bytes // page_bytes) * page_bytes


def _runs(segments: Sequence[Segment], offset_bytes: int, length_bytes: int) -> list[tuple[int, int]]:
    """(length, region offset) of every run that is contiguous in the region, in file order."""
    end_bytes = offset_bytes + length_bytes
    runs: list[tuple[int, int]] = []
    for segment in segments:
        start = max(segment.file_offset_bytes, offset_bytes)
        stop = min(segment.file_offset_bytes + segment.length_bytes, end_bytes)
        if start >= stop:
            continue
        at = segment.region_offset_bytes + start - segment.file_offset_bytes
        if runs and runs[-1][0] + runs[-1][1] == at:
            runs[-1] = (runs[-1][0] + stop - start, runs[-1][1])
        else:
            runs.append((stop - start, at))
    return runs
