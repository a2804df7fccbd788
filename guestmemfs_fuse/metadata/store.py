"""The store: everything an instance must not forget, in one directory.

Owns the newest journal segment and decides when the journal is folded into a snapshot. The order of
things is the caller's: decide, `append`, evolve, reply, under its one lock.

What `append` returned from is on disk: against SIGKILL of every process always, against loss of power as
`Durability` says. What it raised from is not on disk and was not applied. When even taking a failed write
back failed, the store is broken: every later append raises ReadOnlyInstanceError.

Folding never stops the daemon: `rotate` begins a new segment (two files' worth of system calls), and
`compact.compact_sealed` replays the old snapshot and the sealed segments in another process.

Called by the engine (live), fsck and status (read_only_view).
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Final
from uuid import UUID

from guestmemfs_fuse.core.errors import (
    FsError,
    MetadataError,
    MetadataFullError,
    ReadOnlyInstanceError,
    UsageError,
)
from guestmemfs_fuse.core.records import BackingClosed, BackingOpened, Transaction
from guestmemfs_fuse.core.state import State
from guestmemfs_fuse.metadata import atomic, chain, compact, journal, snapshot
from guestmemfs_fuse.metadata.chain import Chain, Report
from guestmemfs_fuse.metadata.files import Files
from guestmemfs_fuse.metadata.framing import HEADER_BYTES
from guestmemfs_fuse.metadata.journal import Segment

COMPACT_MIN_BYTES: Final = 1 << 20
COMPACT_SHARE: Final = 4
"""A journal is folded when it is longer than COMPACT_MIN_BYTES and than 1/COMPACT_SHARE of the snapshot:
the work of folding is then a constant per change, however large the state is."""

PRESSED_BYTES: Final = 64 << 20
PRESSED_SHARE: Final = 2
LARGE_FRAME_BYTES: Final = 4096
"""A journal longer than PRESSED_BYTES and than PRESSED_SHARE snapshots grows faster than it is folded:
somebody writes large attributes in a loop. Frames above LARGE_FRAME_BYTES are refused until a fold is
through, so that everybody else's small changes, and the next snapshot, still find room."""

CHEAP_INODES: Final = 5_000
"""So many inodes are written as a snapshot in a few ten milliseconds."""


class Durability(Enum):
    """What an acknowledged change survives, besides SIGKILL.

    KILL: nothing else (tmpfs: power takes the data too); POWER: fdatasync before each acknowledgement of
    what is not OF_THE_CONNECTION.
    """

    KILL = "kill"
    POWER = "power"


OF_THE_CONNECTION: Final = frozenset({BackingOpened, BackingClosed})
"""Records about what ends with the kernel: for a daemon that follows a SIGKILL, not for one that follows a
loss of power. Every open of a file writes one, so they would cost a create its second fdatasync."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """Figures for status and metrics; appends and times since this process opened the store."""

    sequence: int
    journal_bytes: int
    segments: int
    snapshot_bytes: int
    appends: int
    append_ns_sum: int
    append_failures: int
    compactions: int
    last_compaction_ns: int
    read_only: str | None


@dataclass(frozen=True, slots=True)
class Opened:
    """What opening yields; `state` is the caller's from now on."""

    store: Store
    state: State
    report: Report


def exists(files: Files) -> bool:
    """Whether the directory holds metadata of an instance.

    What an interrupted `Store.create` left (a journal in which nothing happened, and no snapshot) does not
    count. Raises OSError.
    """
    if snapshot.snapshots(files):
        return True
    return any(
        files.size_bytes(journal.segment_name(first)) > HEADER_BYTES for first in journal.segments(files)
    )


def read_only_view(files: Files, region_uuid: UUID, *, lenient: bool = False) -> Chain:
    """The state as the files describe it, for offline status and fsck; nothing is written.

    lenient: load also a state whose files claim blocks twice. Raises MetadataError or OSError.
    """
    return chain.read(files, region_uuid, lenient=lenient)


def _remove_unfinished(files: Files) -> None:
    """Remove what an interrupted or failed `create` left."""
    compact.remove_temporaries(files)
    compact.remove(files, [journal.segment_name(first) for first in journal.segments(files)])
    compact.remove(files, [snapshot.snapshot_name(last) for last in snapshot.snapshots(files)])


class Store:
    """See the module. Not thread safe: one task at a time appends and rotates."""

    def __init__(
        self, files: Files, region_uuid: UUID, segment: Segment, durability: Durability, read: Chain
    ) -> None:
        self._files = files
        self._region_uuid = region_uuid
        self._segment = segment
        self._survives_power = durability is Durability.POWER
        self._sealed_bytes = read.sealed_bytes
        self._sealed_segments = read.sealed_segments
        self._snapshot_bytes = read.snapshot_bytes
        self._due_at_bytes = self._threshold_bytes()
        self._appends = self._append_ns_sum = self._append_failures = 0
        self._compactions = self._last_compaction_ns = 0

    # -- making and opening ----------------------------------------------------------------------------

    @classmethod
    def create(
        cls,
        files: Files,
        region_uuid: UUID,
        state: State,
        *,
        durability: Durability = Durability.KILL,
    ) -> Store:
        """Begin the metadata of a new instance whose state is `state`.

        Raises UsageError when there is some already, MetadataFullError or MetadataWriteError when it cannot
        be written (then there still is none).
        """
        with atomic.write_errors("make the metadata"):
            if exists(files):
                raise UsageError(f"{files.path} holds the metadata of an instance already")
            _remove_unfinished(files)
            segment = Segment.begin(files, region_uuid, 1)
            try:
                files.sync()
                size_bytes = snapshot.write(files, region_uuid, 0, state)
            except OSError:
                segment.close()
                _remove_unfinished(files)
                raise
        read = Chain(state, 0, Report(snapshot.snapshot_name(0), 0), 0, size_bytes)
        return cls(files, region_uuid, segment, durability, read)

    @classmethod
    def open(
        cls,
        files: Files,
        region_uuid: UUID,
        *,
        durability: Durability = Durability.KILL,
        warm: Chain | None = None,
    ) -> Opened:
        """Load what is there and go on with it; a torn tail is cut, files no longer needed are removed.

        warm: a Chain that `read_only_view` returned while the former daemon was still writing; only what
        came since is read. Raises MetadataError, MetadataWriteError (the directory cannot be written) or
        OSError (it cannot be read).
        """
        read = chain.read(files, region_uuid) if warm is None else chain.catch_up(files, region_uuid, warm)
        with atomic.write_errors("open the journal"):
            segment = Segment.resume(files, read.last_segment, read.sequence + 1, read.end_bytes)
        store = cls(files, region_uuid, segment, durability, read)
        compact.remove_temporaries(files)
        compact.remove(files, list(read.report.refused_names))
        compact.remove_superseded(files, read.snapshot_sequence)
        return Opened(store, read.state, read.report)

    # -- writing ---------------------------------------------------------------------------------------

    def append(self, transaction: Transaction) -> int:
        """Write one transaction and return its sequence.

        Blocks for one write(2), and an fdatasync(2) with Durability.POWER. Raises MetadataFullError (no
        room, or a large transaction while the store is `pressed`) or MetadataWriteError: nothing was
        written; ReadOnlyInstanceError when the store is broken.
        """
        began_ns = time.perf_counter_ns()
        most_bytes = LARGE_FRAME_BYTES if self.pressed else None
        sync = self._survives_power and not OF_THE_CONNECTION.issuperset(map(type, transaction.records))
        try:
            sequence = self._segment.append(transaction, sync=sync, most_bytes=most_bytes)
        except FsError as error:
            self._append_failures += 1
            if isinstance(error, MetadataFullError):
                self._due_at_bytes = 0  # folding makes room
            raise
        self._appends += 1
        self._append_ns_sum += time.perf_counter_ns() - began_ns
        return sequence

    @property
    def sequence(self) -> int:
        """The last transaction's sequence, 0 before the first."""
        return self._segment.next_sequence - 1

    @property
    def read_only(self) -> str | None:
        """Why the store takes nothing more, or None."""
        return self._segment.broken

    # -- folding ---------------------------------------------------------------------------------------

    @property
    def compaction_due(self) -> bool:
        """Whether the journal is long enough to be folded into a new snapshot."""
        return self.journal_bytes >= self._due_at_bytes and self._segment.broken is None

    @property
    def pressed(self) -> bool:
        """Whether the journal grows faster than it is folded; large transactions are refused then."""
        return self.journal_bytes > max(PRESSED_BYTES, PRESSED_SHARE * self._snapshot_bytes)

    @property
    def journal_bytes(self) -> int:
        """Length of all segments."""
        return self._sealed_bytes + self._segment.length_bytes

    def rotate(self) -> None:
        """Seal the segment that is written and begin a new one; nothing to do when it is empty.

        Raises MetadataFullError or MetadataWriteError (the store goes on with the old segment), or
        ReadOnlyInstanceError (it cannot be said which one counts).
        """
        self._due_at_bytes = self.journal_bytes + self._threshold_bytes()
        sealed = self._segment
        if sealed.broken is not None:
            raise ReadOnlyInstanceError(sealed.broken)
        if sealed.next_sequence == sealed.first_sequence:
            return
        with atomic.write_errors("begin a journal segment"):
            if self._survives_power:
                sealed.sync()
            self._segment = Segment.begin(self._files, self._region_uuid, sealed.next_sequence)
        self._sealed_bytes += sealed.length_bytes
        self._sealed_segments += 1
        sealed.close()
        try:
            self._files.sync()
        except OSError as error:
            self._segment.broken = f"the new journal segment may not survive a crash ({error.strerror})"
            raise ReadOnlyInstanceError(self._segment.broken) from error

    def compact_sealed(self) -> None:
        """Fold snapshot and sealed segments into a new snapshot, here and now (see compact for elsewhere).

        Raises as compact.compact_sealed.
        """
        compact.compact_sealed(self._files, self._region_uuid)
        self.note_compaction()

    def note_compaction(self, *, took_ns: int = 0) -> None:
        """Somebody compacted (or tried): look at what is there now. Raises OSError."""
        lasts = snapshot.snapshots(self._files)
        self._snapshot_bytes = self._files.size_bytes(snapshot.snapshot_name(lasts[-1]))
        sealed = [first for first in journal.segments(self._files) if first < self._segment.first_sequence]
        self._sealed_segments = len(sealed)
        self._sealed_bytes = sum(self._files.size_bytes(journal.segment_name(first)) for first in sealed)
        self._due_at_bytes = self._sealed_bytes + self._threshold_bytes()
        self._compactions += 1
        self._last_compaction_ns = took_ns

    def _threshold_bytes(self) -> int:
        return max(COMPACT_MIN_BYTES, self._snapshot_bytes // COMPACT_SHARE)

    # -- the end ---------------------------------------------------------------------------------------

    def close(self, state: State | None = None) -> None:
        """Stop writing. With `state`, and where that is cheap, leave a snapshot that needs no replay.

        A snapshot that cannot be written is no loss: the journal has everything. Never raises.
        """
        try:
            if state is not None and len(state.inodes) <= CHEAP_INODES and self._segment.broken is None:
                with suppress(OSError, MetadataError, FsError):
                    self._write_final_snapshot(state)
        finally:
            self._segment.close()

    def _write_final_snapshot(self, state: State) -> None:
        self.rotate()
        if self._sealed_bytes:
            snapshot.write(self._files, self._region_uuid, self.sequence, state)
            compact.remove_superseded(self._files, self.sequence)

    def statistics(self) -> Statistics:
        """All figures at once."""
        return Statistics(
            sequence=self.sequence,
            journal_bytes=self.journal_bytes,
            segments=self._sealed_segments + 1,
            snapshot_bytes=self._snapshot_bytes,
            appends=self._appends,
            append_ns_sum=self._append_ns_sum,
            append_failures=self._append_failures,
            compactions=self._compactions,
            last_compaction_ns=self._last_compaction_ns,
            read_only=self.read_only,
        )
