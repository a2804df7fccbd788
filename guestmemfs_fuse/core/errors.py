"""Every error this project raises on purpose.

One root, `GuestmemfsError`: a message (one line, what happened), an optional hint (what to do), and
the process exit code the CLI uses for it. The filesystem errors (`FsError`) are semantic; which errno
they become is decided in one table, `fuse/errno_map.py`, and a test walks all classes here and demands
a row for each.

Invariants: constructing an error has no side effect; nothing in here imports the operating system.
Called by every room.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the command line; documented in docs/cli.md and stable."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    UNSUPPORTED = 4
    BUSY = 5
    DAMAGED = 6
    NO_MEMORY = 7
    DAEMON = 8


class GuestmemfsError(Exception):
    """Root of the error tree.

    message: one line without a final period; hint: what the reader can do about it, or None.
    """

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return self.message


# -- what a person asked for cannot be done ----------------------------------------------------------


class UsageError(GuestmemfsError):
    """The request contradicts itself, or what is already there."""

    exit_code = ExitCode.USAGE


class UnknownTargetError(GuestmemfsError):
    """No instance, mountpoint or file of that name."""

    exit_code = ExitCode.NOT_FOUND


class UnsupportedError(GuestmemfsError):
    """This host lacks an ability (privilege, kernel feature, device); the message names it."""

    exit_code = ExitCode.UNSUPPORTED


class InstanceBusyError(GuestmemfsError):
    """Somebody still uses what was to be taken away."""

    exit_code = ExitCode.BUSY


class OutOfMemoryError(GuestmemfsError):
    """The host cannot give the memory that was asked for."""

    exit_code = ExitCode.NO_MEMORY


class DaemonError(GuestmemfsError):
    """The daemon did not start, died, or did not answer; the message carries its last words."""

    exit_code = ExitCode.DAEMON


# -- stored metadata that cannot be trusted ----------------------------------------------------------


class MetadataError(GuestmemfsError):
    """Metadata on disk was refused; the message names the file. Nothing was changed."""

    exit_code = ExitCode.DAMAGED


class CorruptMetadataError(MetadataError):
    """A checksum, length or sequence number is wrong beyond a torn tail."""


class ForeignMetadataError(MetadataError):
    """Metadata and region carry different UUIDs."""


class UnknownFormatError(MetadataError):
    """The format version is not one this code reads."""


# -- what a filesystem call can be answered with ------------------------------------------------------


class FsError(GuestmemfsError):
    """A filesystem call is refused; mapped to one errno in fuse/errno_map.py."""

    in_doubt = False
    """The change may stand in the journal all the same, and be there for the next daemon."""

    default_message = "the call is refused"
    """What is said without a message: what the class says of itself."""

    def __init_subclass__(cls) -> None:
        said = (cls.__doc__ or "").partition("(")[0].strip(" .")
        if said:
            cls.default_message = said[0].lower() + said[1:]

    def __init__(self, message: str = "", *, hint: str | None = None) -> None:
        super().__init__(message or self.default_message, hint=hint)


class NoEntryError(FsError):
    """The name or inode does not exist (ENOENT)."""


class StaleInodeError(FsError):
    """The kernel names an inode that is gone (ESTALE)."""


class EntryExistsError(FsError):
    """The name is taken (EEXIST)."""


class NotDirectoryError(FsError):
    """A directory was needed (ENOTDIR)."""


class IsDirectoryError(FsError):
    """Anything but a directory was needed (EISDIR)."""


class DirectoryNotEmptyError(FsError):
    """The directory still has entries (ENOTEMPTY)."""


class NameTooLongFsError(FsError):
    """A name is longer than 255 bytes (ENAMETOOLONG)."""


class InvalidCallError(FsError):
    """The call makes no sense here: read, write, a directory into itself (EINVAL)."""


class NotPermittedError(FsError):
    """The operation is not permitted on this kind of file (EPERM)."""


class BusyFsError(FsError):
    """Pinned, frozen, marked as a saved guest, or mapped beyond the new end (EBUSY)."""


class RegionFullError(FsError):
    """The region has no room for the blocks (ENOSPC)."""


class FileTooBigError(FsError):
    """A size beyond what a file may have (EFBIG)."""


class TooManyLinksError(FsError):
    """The link count would overflow (EMLINK)."""


class UserLimitError(FsError):
    """A per-user limit on files or attribute bytes is reached (EDQUOT)."""


class NoAttributeError(FsError):
    """The extended attribute does not exist (ENODATA)."""


class AttributeTooBigError(FsError):
    """An extended attribute's value is longer than 64 KiB (E2BIG)."""


class AttributeUnsupportedError(FsError):
    """Only user.* extended attributes exist here (EOPNOTSUPP)."""


class NoDataThereError(FsError):
    """SEEK_DATA or SEEK_HOLE beyond the end of the file (ENXIO)."""


class UnsupportedModeError(FsError):
    """A fallocate mode or flag this filesystem does not have (EOPNOTSUPP)."""


class InterruptedFsError(FsError):
    """The caller was interrupted; nothing was changed (EINTR)."""


class ReadOnlyInstanceError(FsError):
    """The instance went read-only after its metadata could not be written (EROFS)."""


class MetadataFullError(FsError):
    """The metadata store has no room; nothing was changed (ENOSPC)."""


class MetadataWriteError(FsError):
    """The metadata could not be written; nothing was changed (EIO)."""
