"""Reading damaged metadata: every record and inode that is whole, whatever is missing between them.

The chain (chain.py) is all or nothing, as a daemon needs it. fsck --repair wants what is left: frames carry
their own checksums and numbers, so those behind a torn or flipped piece are found again and applied, each
record as far as it makes sense without the lost ones. What comes of it is a state that may contradict itself
(names of lost inodes, inodes of lost names, blocks twice); engine/fsck_tree and fsck_blocks put that right,
by the rule that whatever has memory keeps it and gets a name.

Invariants: reads only; a file of another region or format version is never taken apart, but raised as what it
is; what could not be read is told in sentences. Called by engine/fsck_metadata.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from guestmemfs_fuse.core import evolve, image
from guestmemfs_fuse.core import records as rec
from guestmemfs_fuse.core.errors import CorruptMetadataError
from guestmemfs_fuse.core.state import State, new_state
from guestmemfs_fuse.core.types import ROOT_INO, Ino
from guestmemfs_fuse.metadata import codec, journal, snapshot
from guestmemfs_fuse.metadata.chain import MISFITS
from guestmemfs_fuse.metadata.files import Files
from guestmemfs_fuse.metadata.framing import FileKind, healthy_frames, unpack_header

_RANGES_TOLD: Final = 5

Transactions = dict[int, rec.Transaction]


@dataclass(frozen=True, slots=True)
class Geometry:
    """What a state is of when its snapshot cannot say it. extents: files are blocks of one region file."""

    region_bytes: int
    block_bytes: int
    extents: bool


@dataclass(frozen=True, slots=True)
class Salvaged:
    """All that is left. sequence: the highest transaction there was a trace of; lost: one sentence each."""

    state: State
    sequence: int
    lost: tuple[str, ...]


def salvage(
    files: Files, region_uuid: UUID, start: tuple[State, int] | None, geometry: Geometry | None
) -> Salvaged | None:
    """Go on from `start`, an intact beginning and its last transaction, or from the best damaged snapshot.

    The state of `start` is changed. None when there is nothing to begin with. Raises ForeignMetadataError,
    UnknownFormatError.
    """
    found, lost = _transactions(files, region_uuid)
    if start is not None:
        state, after = start
    else:
        begun = _damaged_snapshot(files, region_uuid, geometry)
        if begun is None:
            return None
        state, after, sentence = begun
        lost.append(sentence)
    later = sorted(sequence for sequence in found if sequence > after)
    misfits = sum(_apply(state, found[sequence]) for sequence in later)
    if misfits:
        lost.append(f"{misfits} changes could not be made, for want of what was lost")
    last = max([after, *later])
    missing = _missing(after, later)
    if missing:
        lost.append(f"lost are the transactions {_told(missing)}")
    # Each of those may have given out a number; none is to be given out twice.
    used = max([0, *(ino for ino in state.inodes)]) + 1
    state.next_ino = Ino(max(state.next_ino, used) + sum(end - first for first, end in missing))
    with suppress(ValueError):
        image.count_free_blocks(state)
    return Salvaged(state, last, tuple(lost))


def _frames(
    files: Files, name: str, kind: FileKind, first: int, region_uuid: UUID
) -> Iterator[tuple[int, memoryview]]:
    try:
        data = files.read(name)
    except OSError:
        return
    with suppress(CorruptMetadataError):  # its checksum stands twice: frames are found all the same
        unpack_header(data, name, kind, region_uuid)
    yield from healthy_frames(data, first)


def _transactions(files: Files, region_uuid: UUID) -> tuple[Transactions, list[str]]:
    """Every whole transaction of every segment by its number, and what is to be told."""
    found: Transactions = {}
    unreadable = 0
    for first in journal.segments(files):
        name = journal.segment_name(first)
        for sequence, payload in _frames(files, name, FileKind.JOURNAL, first, region_uuid):
            try:
                found.setdefault(sequence, codec.decode(payload))
            except CorruptMetadataError:
                unreadable += 1
    return found, [f"{unreadable} transactions make no sense"] if unreadable else []


def _damaged_snapshot(
    files: Files, region_uuid: UUID, geometry: Geometry | None
) -> tuple[State, int, str] | None:
    """The newest snapshot of which anything is left, else an empty instance where nothing came before."""
    for last in reversed(snapshot.snapshots(files)):
        name = snapshot.snapshot_name(last)
        items = list(_items(files, name, region_uuid))
        state, expected = image.load_what_is_whole(items, _empty(geometry))
        if state is not None and items:
            of = f" of {expected}" if expected is not None else ""
            return state, last, f"{name} has {len(state.inodes)}{of} inodes left"
    state = _empty(geometry)
    firsts = journal.segments(files)
    if state is None or not firsts:
        return None
    return state, firsts[0] - 1, "no snapshot is left: what was before the journal has only its memory"


def _items(files: Files, name: str, region_uuid: UUID) -> Iterator[image.Item]:
    for _, payload in _frames(files, name, FileKind.SNAPSHOT, 1, region_uuid):
        with suppress(CorruptMetadataError):
            match codec.unpack(payload):
                case (0, tuple(items)):
                    yield from (item for item in items if isinstance(item, tuple))


def _empty(geometry: Geometry | None) -> State | None:
    if geometry is None:
        return None
    return new_state(
        region_bytes=geometry.region_bytes,
        block_bytes=geometry.block_bytes,
        now_ns=0,
        extents=geometry.extents,
    )


def _apply(state: State, transaction: rec.Transaction) -> int:
    """Apply what can be applied of it; returns how many of its records could not."""
    misfits = 0
    for record in transaction.records:
        match record:
            case rec.Made(parent=parent, name=name) | rec.Linked(parent=parent, name=name):
                _make_way(state, parent, name)
            case rec.Renamed(new_parent=parent, new_name=name, exchange=False):
                _make_way(state, parent, name, only_of_missing=True)
            case rec.ExtentsAdded(ino=ino) | rec.Resized(ino=ino) if state.free is not None:
                _make_sure_of(state, ino)
        try:
            evolve.evolve(record, state)
        except MISFITS:
            misfits += not _apply_without_free_map(state, record)
    return misfits


def _make_way(state: State, parent: Ino, name: bytes, *, only_of_missing: bool = False) -> None:
    """An entry that is in the way is of a file whose removal or move was lost: that one keeps its inode."""
    inode = state.inodes.get(parent)
    if inode is None or inode.directory is None or (there := inode.directory.get(name)) is None:
        return
    if not (only_of_missing and there in state.inodes):
        inode.directory.remove(name)


def _make_sure_of(state: State, ino: Ino) -> None:
    """Blocks of a region file say nothing by themselves: a file whose making was lost must own its own."""
    if ino not in state.inodes:
        evolve.evolve(rec.Made(ROOT_INO, b"", ino, stat.S_IFREG | 0o600, 0, 0, 0, b"", 0), state)


def _apply_without_free_map(state: State, record: rec.Record) -> bool:
    """Blocks that are still a file's whose end was lost belong to both until fsck_blocks has looked."""
    match record:
        case rec.ExtentsAdded(ino=ino, extents=extents) if ino in state.inodes:
            state.inodes[ino].extents = evolve.join(state.inodes[ino].extents + extents)
            return True
        case rec.ExtentsCut(ino=ino, blocks=blocks) if ino in state.inodes:
            state.inodes[ino].extents, _ = evolve.split(state.inodes[ino].extents, blocks)
            return True
        case rec.Reaped(ino=ino):
            return ino not in state.inodes
    return False


def _missing(after: int, found: list[int]) -> list[tuple[int, int]]:
    """Gaps in the numbers behind `after`, as (first, end)."""
    gaps, expected = [], after + 1
    for sequence in found:
        if sequence > expected:
            gaps.append((expected, sequence))
        expected = sequence + 1
    return gaps


def _told(gaps: list[tuple[int, int]]) -> str:
    words = [str(first) if end - first == 1 else f"{first} to {end - 1}" for first, end in gaps]
    more = [f"and {len(words) - _RANGES_TOLD} more gaps"] if len(words) > _RANGES_TOLD else []
    return ", ".join([*words[:_RANGES_TOLD], *more])
