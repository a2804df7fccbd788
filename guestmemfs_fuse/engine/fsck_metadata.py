"""The metadata files as fsck sees them: what is wrong with them, and how much can be saved.

Where the chain is whole, `inspect` yields it with remarks (torn tail, leftovers). Where it is damaged, it
looks for as much as is left (`rescue`): the longest intact beginning, and behind it every record that is
whole by itself (metadata/salvage). Going on from there loses the rest, so only `replace_chain` (fsck
--repair) does that, and the damaged files are kept beside the new chain under other names.

Files of another instance or another program version are never replaced: their owner may want them.
Called by fsck_offline.
"""

from __future__ import annotations

from bisect import bisect_right
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final
from uuid import UUID

from guestmemfs_fuse.core import evolve
from guestmemfs_fuse.core.errors import (
    CorruptMetadataError,
    ForeignMetadataError,
    MetadataError,
    UnknownFormatError,
)
from guestmemfs_fuse.core.state import State
from guestmemfs_fuse.engine.fsck import Finding
from guestmemfs_fuse.metadata import atomic, chain, compact, journal, snapshot, store
from guestmemfs_fuse.metadata.chain import Chain
from guestmemfs_fuse.metadata.files import Files
from guestmemfs_fuse.metadata.journal import Segment
from guestmemfs_fuse.metadata.salvage import Geometry, salvage

DAMAGED_SUFFIX: Final = ".damaged"
_GAP: Final = 1 << 32
"""More transactions than a lost part of a journal can hold: numbers of the new chain are new."""


@dataclass(frozen=True, slots=True)
class Saved:
    """What can be saved of a damaged history, up to transaction `sequence`, and sentences about what cannot.

    snapshot: where it begins, empty when that is damaged too.
    """

    state: State
    sequence: int
    snapshot: str
    lost: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Inspection:
    """chain: None when it was refused; saved: then what could be gone on from, if anything."""

    findings: list[Finding] = field(default_factory=list)
    chain: Chain | None = None
    saved: Saved | None = None

    @property
    def state(self) -> State | None:
        """What there is to be checked further."""
        if self.chain is not None:
            return self.chain.state
        return self.saved.state if self.saved is not None else None


def inspect(
    files: Files, region_uuid: UUID, *, region_holds_data: bool | None, geometry: Geometry | None = None
) -> Inspection:
    """Read everything, change nothing. Raises OSError.

    region_holds_data: None where that is not known; geometry: for a state whose snapshot is lost.
    """
    found = _leftovers(files)
    if not store.exists(files):
        if region_holds_data is not False:
            found.append(Finding("no-metadata", None, f"{files.path} holds no metadata"))
        return Inspection(found)
    try:
        read = store.read_only_view(files, region_uuid, lenient=True)
    except ForeignMetadataError as error:
        return Inspection([*found, Finding("foreign-metadata", None, error.message)])
    except UnknownFormatError as error:
        return Inspection([*found, Finding("unknown-format", None, error.message)])
    except MetadataError as error:
        found.append(Finding("damaged-metadata", None, error.message))
        try:
            return Inspection(found, saved=rescue(files, region_uuid, geometry))
        except ForeignMetadataError as foreign:
            return Inspection([*found, Finding("foreign-metadata", None, foreign.message)])
        except UnknownFormatError as unknown:
            return Inspection([*found, Finding("unknown-format", None, unknown.message)])
    for sentence in read.report.refused:
        found.append(Finding("damaged-snapshot", None, f"{sentence}; {read.report.snapshot} is used"))
    if read.report.torn_file is not None:
        detail = f"{read.report.torn_file} ends with {read.report.torn_bytes} bytes of an interrupted write"
        found.append(Finding("torn-tail", None, f"{detail} ({read.report.torn_reason})"))
    return Inspection(found, chain=read)


def _leftovers(files: Files) -> list[Finding]:
    return [
        Finding("leftover-file", None, f"{name} was left by an interrupted write")
        for name in files.names()
        if atomic.is_temporary(name)
    ]


def rescue(files: Files, region_uuid: UUID, geometry: Geometry | None) -> Saved | None:
    """The farthest intact beginning, and every whole record behind the damage; None: nothing is left.

    Raises ForeignMetadataError, UnknownFormatError.
    """
    intact = save(files, region_uuid)
    start = (intact.state, intact.sequence) if intact is not None else None
    found = salvage(files, region_uuid, start, geometry)
    if found is None:
        return None
    return Saved(found.state, found.sequence, intact.snapshot if intact is not None else "", found.lost)


def save(files: Files, region_uuid: UUID) -> Saved | None:
    """The intact beginning that reaches farthest, from any snapshot that is whole."""
    best: Saved | None = None
    for last in snapshot.snapshots(files):
        found = _save_from(files, region_uuid, last)
        if found is not None and (best is None or found.sequence >= best.sequence):
            best = found
    return best


def _save_from(files: Files, region_uuid: UUID, last: int, limit: int | None = None) -> Saved | None:
    """From one snapshot up to the first damage, or to transaction `limit`."""
    try:
        state, _ = snapshot.read(files, region_uuid, last, lenient=True)
    except (MetadataError, OSError):
        return None
    sequence = last
    with suppress(MetadataError, OSError):
        for first in _segments_behind(files, sequence):
            reader = journal.SegmentReader(files, first, region_uuid)
            for number, transaction in reader.transactions(after=sequence):
                if number != sequence + 1 or number == limit:
                    return Saved(state, sequence, snapshot.snapshot_name(last))
                try:
                    evolve.apply(state, transaction)
                except chain.MISFITS:
                    # Half of it may be applied: begin again and stop before it.
                    return _save_from(files, region_uuid, last, limit=number)
                sequence = number
    return Saved(state, sequence, snapshot.snapshot_name(last))


def _segments_behind(files: Files, sequence: int) -> list[int]:
    """Segments that can hold what is behind transaction `sequence`; older ones need not be whole."""
    firsts = journal.segments(files)
    return firsts[max(0, bisect_right(firsts, sequence + 1) - 1) :]


def replace_chain(files: Files, region_uuid: UUID, saved: Saved) -> list[str]:
    """Go on from what was saved: a new chain behind every number seen; returns the names set aside.

    A crash leaves either the damage as it was or the new chain. Raises MetadataFullError,
    MetadataWriteError.
    """
    old = [*map(journal.segment_name, journal.segments(files))]
    old += [*map(snapshot.snapshot_name, snapshot.snapshots(files))]
    start = max([saved.sequence, *snapshot.snapshots(files), *journal.segments(files)]) + _GAP
    with atomic.write_errors("write the repaired metadata"):
        Segment.begin(files, region_uuid, start + 1).close()
        snapshot.write(files, region_uuid, start, saved.state)
        compact.remove_temporaries(files)
        for name in old:
            files.rename(name, name + DAMAGED_SUFFIX)
        files.sync()
    chain.read(files, region_uuid)
    return [name + DAMAGED_SUFFIX for name in old]


def store_state(files: Files, region_uuid: UUID, read: Chain, state: State | None) -> None:
    """Put the files in order (torn tail cut, leftovers gone) and, with `state`, make it the snapshot.

    Raises MetadataError, MetadataFullError, MetadataWriteError, ReadOnlyInstanceError.
    """
    opened = store.Store.open(files, region_uuid, warm=read)
    try:
        if state is not None:
            if opened.state is not state:
                raise CorruptMetadataError("the metadata changed while it was checked")
            opened.store.rotate()
            with atomic.write_errors("write the repaired metadata"):
                snapshot.write(files, region_uuid, opened.store.sequence, state)
            compact.remove_superseded(files, opened.store.sequence)
    finally:
        opened.store.close()
