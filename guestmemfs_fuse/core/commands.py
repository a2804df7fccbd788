"""What can be asked of an instance: the commands `decide` answers with records or a refusal.

Field names follow the calls they come from (man-pages section 2). A command carries who asks only where
ownership or limits depend on it: permission bits are the kernel's business (default_permissions).

Called by the engine (live traffic), fsck and the model tests.
"""

from __future__ import annotations

from guestmemfs_fuse.core.types import BackingId, Extent, Ino
from guestmemfs_fuse.core.value import value


@value
class Make:
    """create, mknod, mkdir, symlink (by the type bits of `mode`); an empty name is O_TMPFILE.

    backing_id: of a file that is opened with the same call.
    """

    parent: Ino
    name: bytes
    mode: int
    uid: int
    gid: int
    rdev: int = 0
    target: bytes = b""
    backing_id: BackingId | None = None


@value
class Link:
    """link(2)."""

    ino: Ino
    new_parent: Ino
    new_name: bytes


@value
class Unlink:
    """unlink(2)."""

    parent: Ino
    name: bytes


@value
class Rmdir:
    """rmdir(2)."""

    parent: Ino
    name: bytes


@value
class Rename:
    """renameat2(2); flags: RENAME_NOREPLACE or RENAME_EXCHANGE."""

    parent: Ino
    name: bytes
    new_parent: Ino
    new_name: bytes
    flags: int = 0


@value
class SetAttrs:
    """chmod, chown, utimensat: None leaves a field as it is."""

    ino: Ino
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


@value
class Resize:
    """truncate(2). Whether a process maps the part to be cut is asked before, by the engine.

    force: also when pinned (the CLI's own commands only).
    """

    ino: Ino
    size_bytes: int
    force: bool = False


@value
class Allocate:
    """fallocate(2) with mode 0, or KEEP_SIZE."""

    ino: Ino
    offset_bytes: int
    length_bytes: int
    keep_size: bool = False


@value
class Punch:
    """fallocate(2) with PUNCH_HOLE | KEEP_SIZE."""

    ino: Ino
    offset_bytes: int
    length_bytes: int


@value
class SetXattr:
    """setxattr(2); flags: XATTR_CREATE or XATTR_REPLACE."""

    ino: Ino
    name: bytes
    value: bytes
    flags: int = 0


@value
class RemoveXattr:
    """removexattr(2)."""

    ino: Ino
    name: bytes


@value
class Reap:
    """Forget an orphan that nobody uses any more."""

    ino: Ino


@value
class Pin:
    """`guestmemfs pin` and `unpin`."""

    ino: Ino
    pinned: bool


@value
class Mark:
    """Say that a file holds a saved guest, or (empty) no longer does."""

    ino: Ino
    mark: bytes


@value
class Freeze:
    """Enter or leave the serialised state."""

    frozen: bool


@value
class StartDaemon:
    """A daemon takes over."""


@value
class StartSession:
    """A FUSE connection begins: the INIT request to replay later, the superblock's device number."""

    init_request: bytes
    device: int


@value
class EndSession:
    """The kernel says that the filesystem is unmounted and gone."""


@value
class OpenBacking:
    """Remember the id under which the kernel knows an inode's backing file."""

    ino: Ino
    backing_id: BackingId


@value
class CloseBacking:
    """The id was given back."""

    ino: Ino


@value
class Quarantine:
    """Never hand these blocks out again."""

    extents: tuple[Extent, ...]


@value
class ResizeRegion:
    """Grow or shrink the region."""

    size_bytes: int


Command = (
    Make
    | Link
    | Unlink
    | Rmdir
    | Rename
    | SetAttrs
    | Resize
    | Allocate
    | Punch
    | SetXattr
    | RemoveXattr
    | Reap
    | Pin
    | Mark
    | Freeze
    | StartDaemon
    | StartSession
    | EndSession
    | OpenBacking
    | CloseBacking
    | Quarantine
    | ResizeRegion
)
