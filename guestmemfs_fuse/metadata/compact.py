"""Fold the snapshot and the sealed journal segments into a new snapshot, away from the daemon.

Works from the files alone, by replay, so it needs no access to the live state and no pause: the daemon
seals a segment (`Store.rotate`) and starts `python -m guestmemfs_fuse.metadata.compact DIRECTORY UUID`.
Any number of these may run at once, or be killed anywhere, or outlive their daemon: a snapshot appears
whole under a name that says what it contains, and only what the new snapshot contains is removed.

Also run in-process by fsck and tests. Exit codes as core/errors.ExitCode.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from itertools import pairwise
from uuid import UUID

from guestmemfs_fuse.core.errors import ExitCode, GuestmemfsError
from guestmemfs_fuse.metadata import atomic, chain, journal, snapshot
from guestmemfs_fuse.metadata.files import DirectoryFiles, Files

_NICE = 10


def compact_sealed(files: Files, region_uuid: UUID) -> int | None:
    """Write the snapshot of everything but the newest segment and remove what it makes superfluous.

    Returns the new snapshot's sequence, None when there was nothing to fold. Raises MetadataError (what is
    there cannot be read), MetadataFullError or MetadataWriteError; then everything is as it was.
    """
    read = chain.read(files, region_uuid, sealed_only=True)
    if read.report.frames_replayed == 0:
        return None
    with atomic.write_errors("write a snapshot"):
        snapshot.write(files, region_uuid, read.sequence, read.state)
    remove_superseded(files, read.sequence)
    return read.sequence


def remove_superseded(files: Files, last_sequence: int) -> None:
    """Remove the snapshots and segments that hold nothing but what snapshot `last_sequence` contains.

    What cannot be removed does no harm and is tried again the next time.
    """
    with suppress(OSError):
        names = [snapshot.snapshot_name(last) for last in snapshot.snapshots(files) if last < last_sequence]
        firsts = journal.segments(files)
        names += [
            journal.segment_name(first) for first, after in pairwise(firsts) if after <= last_sequence + 1
        ]
        remove(files, names)


def remove_temporaries(files: Files) -> None:
    """Remove what interrupted writers left; one that still runs fails and leaves everything as it was."""
    with suppress(OSError):
        remove(files, [name for name in files.names() if atomic.is_temporary(name)])


def remove(files: Files, names: list[str]) -> None:
    """Unlink, as far as possible."""
    for name in names:
        with suppress(OSError):
            files.unlink(name)


def command(directory: str, region_uuid: UUID) -> list[str]:
    """The command line that compacts `directory` in a process of its own."""
    return [sys.executable, "-m", "guestmemfs_fuse.metadata.compact", directory, region_uuid.hex]


def main(arguments: list[str]) -> int:
    """Compact the directory and region UUID given as arguments."""
    try:
        directory, region_uuid = arguments
        uuid = UUID(region_uuid)
    except ValueError:
        print("usage: python -m guestmemfs_fuse.metadata.compact DIRECTORY UUID", file=sys.stderr)
        return ExitCode.USAGE
    os.nice(_NICE)
    try:
        compact_sealed(DirectoryFiles(directory), uuid)
    except GuestmemfsError as error:
        print(f"compact: {error.message}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        print(f"compact: {directory}: {error}", file=sys.stderr)
        return ExitCode.FAILED
    return ExitCode.OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
