"""Whether a directory can be mounted on, found out without touching what is mounted there.

Invariant: a path is only looked at (stat, list) once the mount table says that nothing of ours is on it or
above it. Called by `mount`.
"""

from __future__ import annotations

import os

from guestmemfs_fuse.core.errors import UsageError
from guestmemfs_fuse.linux import mountinfo


def require_free(mountpoint: str) -> None:
    """Raises UsageError unless this canonical path is an empty directory with nothing mounted on it."""
    mounts = mountinfo.read_mounts()
    if (there := mountinfo.find(mounts, mountpoint)) is not None:
        raise UsageError(f"{mountpoint} is a mountpoint already ({_what(there)})", hint=_hint(there))
    for entry in mounts:
        if entry.fstype == mountinfo.OURS and mountpoint.startswith(entry.mountpoint + "/"):
            raise UsageError(
                f"{mountpoint} is inside the guestmemfs mount {entry.mountpoint}",
                hint="choose a directory outside of it",
            )
    _require_empty_directory(mountpoint)


def _require_empty_directory(path: str) -> None:
    try:
        with os.scandir(path) as entries:
            first = next(entries, None)
    except FileNotFoundError:
        raise UsageError(f"{path} does not exist", hint=f"`mkdir -p {path}`") from None
    except NotADirectoryError:
        raise UsageError(f"{path} is not a directory", hint="choose an empty directory") from None
    except OSError as error:
        raise UsageError(f"{path} cannot be used: {error.strerror}") from error
    if first is not None:
        raise UsageError(
            f"{path} is not empty", hint="choose an empty directory: a mount would hide its files"
        )


def _what(entry: mountinfo.MountEntry) -> str:
    return f"guestmemfs instance {entry.source}" if entry.fstype == mountinfo.OURS else entry.fstype


def _hint(entry: mountinfo.MountEntry) -> str:
    if entry.fstype == mountinfo.OURS:
        freed = f"`guestmemfs umount {entry.source}` frees this one"
        return f"choose another directory; {freed} (`umount -l` where no instance is left of it)"
    return "choose a directory of its own for the instance"
