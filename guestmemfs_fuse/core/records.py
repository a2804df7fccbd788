"""What can happen to an instance: the records of the journal.

A record states one change that has been decided; `evolve` applies it and cannot fail. The same records
are applied by live traffic, journal replay, fsck and the model tests. A `Transaction` is the set of
records one request caused; it is journaled as one frame, so it happens wholly or not at all.

TAG numbers and field order are the on-disk format (docs/format.md): a number is never given a second
meaning, a field is only ever appended with a default. Times are nanoseconds since the epoch.

Called by core/decide (makes them), core/evolve (applies them), metadata/codec (stores them).
"""

from __future__ import annotations

from typing import ClassVar, Final

from guestmemfs_fuse.core.types import NO_REQUEST, ROOT_INO, BackingId, Extent, Ino, Unique
from guestmemfs_fuse.core.value import value


@value
class Made:
    """A new inode, entered as `name` in `parent`; without a name (empty) it is an orphan (O_TMPFILE)."""

    TAG: ClassVar[int] = 1
    parent: Ino
    name: bytes
    ino: Ino
    mode: int
    uid: int
    gid: int
    rdev: int
    target: bytes
    now_ns: int


@value
class Linked:
    """A further name for an inode (for an O_TMPFILE orphan: its first)."""

    TAG: ClassVar[int] = 2
    parent: Ino
    name: bytes
    ino: Ino
    now_ns: int


@value
class Unlinked:
    """A name is gone; the inode becomes an orphan with its last name. Also rmdir."""

    TAG: ClassVar[int] = 3
    parent: Ino
    name: bytes
    now_ns: int


@value
class Renamed:
    """An entry moved, replacing what stood at the new name, or changed places with it."""

    TAG: ClassVar[int] = 4
    parent: Ino
    name: bytes
    new_parent: Ino
    new_name: bytes
    exchange: bool
    now_ns: int


@value
class AttrsSet:
    """Attributes changed; None leaves a field as it is. `ctime_ns` is always set."""

    TAG: ClassVar[int] = 5
    ino: Ino
    mode: int | None
    uid: int | None
    gid: int | None
    atime_ns: int | None
    mtime_ns: int | None
    ctime_ns: int


@value
class Resized:
    """The file's size is now `size_bytes`; memory beyond it is given up unless preallocated."""

    TAG: ClassVar[int] = 6
    ino: Ino
    size_bytes: int
    prealloc_bytes: int
    now_ns: int


@value
class Punched:
    """Bytes [offset, offset + length) read as zero again; their memory may be gone."""

    TAG: ClassVar[int] = 7
    ino: Ino
    offset_bytes: int
    length_bytes: int
    now_ns: int


@value
class XattrSet:
    """An extended attribute has a new value."""

    TAG: ClassVar[int] = 8
    ino: Ino
    name: bytes
    value: bytes
    now_ns: int


@value
class XattrRemoved:
    """An extended attribute is gone."""

    TAG: ClassVar[int] = 9
    ino: Ino
    name: bytes
    now_ns: int


@value
class Reaped:
    """An orphan nobody uses any more is gone for good, with its memory."""

    TAG: ClassVar[int] = 10
    ino: Ino


@value
class PinSet:
    """A file is pinned or not: a pinned file is not unlinked, renamed over, punched or shrunk."""

    TAG: ClassVar[int] = 11
    ino: Ino
    pinned: bool


@value
class MarkSet:
    """A file holds a saved guest (`mark` says which), or not (empty)."""

    TAG: ClassVar[int] = 12
    ino: Ino
    mark: bytes


@value
class FrozenState:
    """The instance is in the serialised state, or no longer."""

    TAG: ClassVar[int] = 13
    frozen: bool


@value
class DaemonStarted:
    """A daemon took over; counts generations."""

    TAG: ClassVar[int] = 14
    generation: int


@value
class SessionStarted:
    """A FUSE connection began: its INIT request, and the superblock's device number.

    Every backing id and every remembered request belonged to the connection before and is void.
    """

    TAG: ClassVar[int] = 15
    init_request: bytes
    device: int


@value
class BackingOpened:
    """The kernel knows this inode's backing file by `backing_id`."""

    TAG: ClassVar[int] = 16
    ino: Ino
    backing_id: BackingId


@value
class BackingClosed:
    """The inode's backing id was given back."""

    TAG: ClassVar[int] = 17
    ino: Ino


@value
class ExtentsAdded:
    """Blocks of the region now belong to the file, behind those it has."""

    TAG: ClassVar[int] = 18
    ino: Ino
    extents: tuple[Extent, ...]


@value
class ExtentsCut:
    """The file keeps its first `blocks` blocks; the others are free."""

    TAG: ClassVar[int] = 19
    ino: Ino
    blocks: int


@value
class Quarantined:
    """Blocks with memory errors: never handed out again."""

    TAG: ClassVar[int] = 20
    extents: tuple[Extent, ...]


@value
class RegionResized:
    """The region's size is now `size_bytes`."""

    TAG: ClassVar[int] = 21
    size_bytes: int


@value
class Repaired:
    """fsck set an inode's link count and parent to what the tree says."""

    TAG: ClassVar[int] = 22
    ino: Ino
    nlink: int
    parent: Ino = ROOT_INO


@value
class SessionEnded:
    """The filesystem was unmounted and its superblock is gone: nobody can map anything through it any more.

    Its device number will be another filesystem's, so it must not be remembered.
    """

    TAG: ClassVar[int] = 23
    device: int


Record = (
    Made
    | Linked
    | Unlinked
    | Renamed
    | AttrsSet
    | Resized
    | Punched
    | XattrSet
    | XattrRemoved
    | Reaped
    | PinSet
    | MarkSet
    | FrozenState
    | DaemonStarted
    | SessionStarted
    | BackingOpened
    | BackingClosed
    | ExtentsAdded
    | ExtentsCut
    | Quarantined
    | RegionResized
    | Repaired
    | SessionEnded
)

RECORD_TYPES: Final[tuple[type[Record], ...]] = Record.__args__


@value
class Transaction:
    """The records of one request, as one journal frame.

    origin: the FUSE request that asked (NO_REQUEST for ours), so that a request the kernel sends again
    after a crash is answered from here instead of being done twice; ino: what it made or changed.
    """

    records: tuple[Record, ...]
    origin: Unique = NO_REQUEST
    ino: Ino = ROOT_INO
