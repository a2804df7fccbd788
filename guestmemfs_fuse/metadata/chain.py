"""From the files of a metadata directory to the State they describe: which snapshot, which segments.

The chain is one snapshot, then segments without a gap up to the newest. The first segment behind a
snapshot always exists (it is made before the snapshot), so a lost file is noticed. The newest valid
snapshot is used; when a newer one is damaged but the older one and the segments reach as far, the older
is used and the report says so; when data would be lost, CorruptMetadataError names the file.

Reads only. Another process may compact meanwhile: a file that disappears between listing and reading
makes us list again.

Called by store (open, read_only_view) and compact.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, replace
from typing import Final
from uuid import UUID

from guestmemfs_fuse.core import evolve
from guestmemfs_fuse.core.errors import CorruptMetadataError, MetadataError
from guestmemfs_fuse.core.state import State
from guestmemfs_fuse.metadata import journal, snapshot
from guestmemfs_fuse.metadata.files import Files
from guestmemfs_fuse.metadata.framing import TornTail

_LISTINGS: Final = 5
MISFITS: Final = (KeyError, ValueError, AssertionError, AttributeError, TypeError, IndexError, OverflowError)
"""What evolve runs into on a transaction that was not decided on this state."""


@dataclass(frozen=True, slots=True)
class Report:
    """What reading found.

    refused: names of, and sentences about, snapshots that were damaged and not needed; torn_bytes: behind the
    last whole frame of `torn_file`, with the reason.
    """

    snapshot: str
    frames_replayed: int
    refused_names: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    torn_file: str | None = None
    torn_bytes: int = 0
    torn_reason: str = ""

    @property
    def remarks(self) -> tuple[str, ...]:
        """A sentence for everything an operator should know; empty when all was well."""
        said = [f"{sentence}; used the older {self.snapshot}" for sentence in self.refused]
        if self.torn_file is not None:
            said.append(
                f"{self.torn_file} ended with {self.torn_bytes} bytes of a write that was interrupted "
                f"({self.torn_reason}); it had not been acknowledged"
            )
        return tuple(said)


@dataclass(frozen=True, slots=True)
class LastFrame:
    """Where the last transaction that was read stands: segment (its first sequence), byte and checksum."""

    segment: int
    at: int
    checksum: int


@dataclass(slots=True)
class Chain:
    """What reading yields: the state, and where writing would go on.

    sequence: of the last transaction in `state`; end_bytes: where the last good frame of the segment
    `last_segment` (its first sequence) ends; last_frame: None when no frame was read; the byte counts are
    sizes of files.
    """

    state: State
    sequence: int
    report: Report
    snapshot_sequence: int
    snapshot_bytes: int
    last_segment: int = 0
    end_bytes: int = 0
    sealed_bytes: int = 0
    sealed_segments: int = 0
    last_frame: LastFrame | None = None


def read(files: Files, region_uuid: UUID, *, sealed_only: bool = False, lenient: bool = False) -> Chain:
    """Load the newest snapshot that can be used and replay the segments behind it.

    sealed_only: leave the newest segment out (it is being written); lenient: see image.load.
    Raises MetadataError, or OSError when a file cannot be read.
    """
    for _ in range(_LISTINGS):
        try:
            return _read_once(files, region_uuid, sealed_only=sealed_only, lenient=lenient)
        except FileNotFoundError:
            continue
    return _read_once(files, region_uuid, sealed_only=sealed_only, lenient=lenient)


def catch_up(files: Files, region_uuid: UUID, chain: Chain) -> Chain:
    """Bring `chain`, read while another process was writing, up to date; it must not be used afterwards.

    Reads everything anew when the segments it needs were compacted away. Raises as `read`.
    """
    try:
        return _replay(files, region_uuid, chain, sealed_only=False)
    except (CorruptMetadataError, FileNotFoundError):
        return read(files, region_uuid)


def _read_once(files: Files, region_uuid: UUID, *, sealed_only: bool, lenient: bool) -> Chain:
    lasts = snapshot.snapshots(files)
    if not lasts:
        raise CorruptMetadataError(f"no snapshot in {files.path}", hint="its metadata is incomplete")
    refused: dict[str, MetadataError] = {}
    for last in reversed(lasts):
        try:
            state, size_bytes = snapshot.read(files, region_uuid, last, lenient=lenient)
        except CorruptMetadataError as error:
            refused[snapshot.snapshot_name(last)] = error
            continue
        sentences = tuple(error.message for error in refused.values())
        report = Report(snapshot.snapshot_name(last), 0, tuple(refused), sentences)
        start = Chain(state, last, report, last, size_bytes)
        try:
            chain = _replay(files, region_uuid, start, sealed_only=sealed_only)
        except CorruptMetadataError:
            if refused:
                break
            raise
        if chain.sequence < lasts[-1]:
            break
        return chain
    raise next(iter(refused.values()))


def _replay(files: Files, region_uuid: UUID, start: Chain, *, sealed_only: bool) -> Chain:
    """Apply to `start.state` what the segments hold behind it."""
    chain = replace(start, sealed_bytes=0, sealed_segments=0)
    known = start.sequence if start.last_frame is not None else start.sequence + 1
    needed = _segments_behind(journal.segments(files), known, files)
    expected = needed[0]
    for first in needed:
        if first != expected:
            raise CorruptMetadataError(
                f"{journal.segment_name(first)} does not begin with transaction {expected}, which is missing"
            )
        if sealed_only and first == needed[-1]:
            break
        reader = journal.SegmentReader(files, first, region_uuid)
        if start.last_frame is not None and start.last_frame.segment == first:
            reader.frames.go_on_behind(start.last_frame.at, start.sequence, start.last_frame.checksum)
        replayed = _replay_segment(reader, chain, start)
        expected = reader.frames.next_sequence
        sealed = first != needed[-1]
        chain.report = _report(chain.report, reader, replayed, sealed=sealed)
        chain.last_segment, chain.end_bytes = first, reader.frames.end
        chain.sealed_bytes += reader.size_bytes if sealed else 0
        chain.sealed_segments += 1 if sealed else 0
        if reader.frames.at:
            chain.last_frame = LastFrame(first, reader.frames.at, reader.frames.checksum)
    if expected <= start.sequence:
        raise CorruptMetadataError(
            f"{journal.segment_name(needed[-1])} ends with transaction {expected - 1}, "
            f"{start.report.snapshot} has {start.sequence}"
        )
    return chain


def _segments_behind(firsts: list[int], sequence: int, files: Files) -> list[int]:
    """The segments from the one that transaction `sequence` belongs in; that one must exist."""
    before = bisect_right(firsts, sequence)
    if before == 0:
        raise CorruptMetadataError(f"{journal.segment_name(sequence)} is missing in {files.path}")
    return firsts[before - 1 :]


def _replay_segment(reader: journal.SegmentReader, chain: Chain, start: Chain) -> int:
    """Apply the segment's transactions behind `start`; returns how many."""
    before = chain.sequence
    checksum = None if start.last_frame is None else start.last_frame.checksum
    for sequence, transaction in reader.transactions(after=start.sequence, checksum=checksum):
        try:
            evolve.apply(chain.state, transaction)
        except MISFITS as error:
            raise CorruptMetadataError(
                f"{reader.name}: transaction {sequence} does not fit what was before it ({error!r})"
            ) from error
        chain.sequence = sequence
    return chain.sequence - before


def _report(report: Report, reader: journal.SegmentReader, replayed: int, *, sealed: bool) -> Report:
    report = replace(report, frames_replayed=report.frames_replayed + replayed)
    ending = reader.frames.ending
    if not isinstance(ending, TornTail):
        return replace(report, torn_file=None, torn_bytes=0, torn_reason="")
    if sealed:
        raise CorruptMetadataError(f"{reader.name} is damaged at byte {ending.at} ({ending.reason})")
    torn_bytes = reader.size_bytes - ending.at
    return replace(report, torn_file=reader.name, torn_bytes=torn_bytes, torn_reason=ending.reason)
