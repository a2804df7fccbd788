"""Write the golden files of the current format version (run by hand, once per version, then never again).

    python -m tests.unit.metadata.golden.make DIRECTORY

Golden files are read by test_format.py for as long as this program reads that version.
"""

from __future__ import annotations

import sys
from pathlib import Path

from guestmemfs_fuse.core import evolve, image
from guestmemfs_fuse.core import records as rec
from guestmemfs_fuse.core.state import State, new_state
from guestmemfs_fuse.core.types import ROOT_INO, BackingId, BlockNumber, Extent, Ino, Unique
from guestmemfs_fuse.metadata.files import DirectoryFiles
from guestmemfs_fuse.metadata.store import Store
from tests.unit.metadata.workload import BLOCK_BYTES, REGION

FILE, DIRECTORY, LINK, ORPHAN = Ino(2), Ino(3), Ino(4), Ino(5)
SECOND_NS = 1_000_000_000


def first_state() -> State:
    """What the golden store was created with: a region of extents."""
    return new_state(region_bytes=64 * BLOCK_BYTES, block_bytes=BLOCK_BYTES, now_ns=SECOND_NS, extents=True)


def made() -> tuple[rec.Transaction, ...]:
    """Every record type at least once."""
    now = iter(range(2 * SECOND_NS, 100 * SECOND_NS, SECOND_NS + 1))

    def one(*records: rec.Record, origin: int = 0, ino: Ino = ROOT_INO) -> rec.Transaction:
        return rec.Transaction(records, Unique(origin), ino)

    extents = (Extent(BlockNumber(0), 3), Extent(BlockNumber(8), 2))
    return (
        one(rec.DaemonStarted(1)),
        one(rec.SessionStarted(b"unmounted", 70)),
        one(rec.SessionEnded(70)),
        one(rec.SessionStarted(b"\x00init\xff", 77)),
        one(rec.Made(ROOT_INO, b"guest", FILE, 0o100600, 0, 0, 0, b"", next(now)), origin=10, ino=FILE),
        one(rec.Made(ROOT_INO, b"dir", DIRECTORY, 0o40755, 1000, 1000, 0, b"", next(now)), origin=12),
        one(rec.Made(DIRECTORY, b"link \xff", LINK, 0o120777, 1000, 1000, 0, b"../guest", next(now))),
        one(rec.Made(ROOT_INO, b"", ORPHAN, 0o100600, 0, 0, 0, b"", next(now))),
        one(rec.ExtentsAdded(FILE, extents), rec.Resized(FILE, 5 * BLOCK_BYTES - 1, 0, next(now)), origin=14),
        one(rec.ExtentsCut(FILE, 4), rec.Resized(FILE, 3 * BLOCK_BYTES, 4 * BLOCK_BYTES, next(now))),
        one(rec.Punched(FILE, BLOCK_BYTES, BLOCK_BYTES, next(now))),
        one(rec.Linked(DIRECTORY, b"guest too", FILE, next(now))),
        one(rec.Renamed(DIRECTORY, b"guest too", ROOT_INO, b"other", False, next(now))),
        one(rec.Renamed(ROOT_INO, b"other", ROOT_INO, b"guest", True, next(now))),
        one(rec.AttrsSet(FILE, 0o100640, 1000, None, 5, None, next(now))),
        one(rec.XattrSet(FILE, b"user.owner", b"vm-1", next(now))),
        one(rec.XattrSet(FILE, b"user.gone", b"", next(now))),
        one(rec.XattrRemoved(FILE, b"user.gone", next(now))),
        one(rec.PinSet(FILE, True)),
        one(rec.MarkSet(FILE, b"saved by vm-1")),
        one(rec.BackingOpened(FILE, BackingId(3))),
        one(rec.BackingOpened(ORPHAN, BackingId(4))),
        one(rec.BackingClosed(ORPHAN)),
        one(rec.Unlinked(ROOT_INO, b"other", next(now))),
        one(rec.Quarantined((Extent(BlockNumber(20), 1),))),
        one(rec.RegionResized(65 * BLOCK_BYTES)),
        one(rec.Reaped(ORPHAN)),
        one(rec.Repaired(LINK, 1, DIRECTORY)),
        one(rec.FrozenState(True)),
        one(rec.FrozenState(False)),
    )


def state_after(count: int) -> State:
    """The state after the first `count` transactions."""
    state = first_state()
    for transaction in made()[:count]:
        evolve.apply(state, transaction)
    return state


def write(directory: Path) -> None:
    """A store with a snapshot in the middle, a sealed segment and an open one."""
    files = DirectoryFiles(directory)
    store = Store.create(files, REGION, first_state())
    for number, transaction in enumerate(made()):
        if number == 12:
            store.rotate()
            store.compact_sealed()
        if number == 20:
            store.rotate()
        store.append(transaction)
    store.close()
    files.close()
    (directory / "state.txt").write_text(described(state_after(len(made()))))


def described(state: State) -> str:
    """The state for people and for comparison: one line an item."""
    return "".join(f"{item!r}\n" for item in image.dump(state))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
