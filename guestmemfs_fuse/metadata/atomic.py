"""Write a metadata file so that it is there whole or not at all.

A file is made under a temporary name, synced, renamed and its directory synced. So no reader ever sees a
half-written header, and what a crash leaves behind is a temporary name, which the next opening removes.

Called by journal (new segments) and snapshot.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from guestmemfs_fuse.core.errors import FsError, MetadataFullError, MetadataWriteError
from guestmemfs_fuse.metadata.files import AppendFile, Files

TEMPORARY_SUFFIX: Final = ".tmp"
_NO_ROOM: Final = (errno.ENOSPC, errno.EDQUOT)


def is_temporary(name: str) -> bool:
    """Whether a file is what an interrupted writer left."""
    return name.startswith(("journal-", "snapshot-")) and name.endswith(TEMPORARY_SUFFIX)


@contextmanager
def write_errors(what: str) -> Iterator[None]:
    """Turn OSError into the answer the caller of a filesystem call gets.

    Raises MetadataFullError (ENOSPC, EDQUOT) or MetadataWriteError.
    """
    try:
        yield
    except OSError as error:
        raise fs_error(error, what) from error


def fs_error(error: OSError, what: str) -> FsError:
    """The domain's word for a failed write of metadata."""
    if error.errno in _NO_ROOM:
        return MetadataFullError(f"no room to {what}", hint="make room where the instance keeps its metadata")
    return MetadataWriteError(f"cannot {what} ({error.strerror or error})")


def write_all(file: AppendFile, data: bytes) -> None:
    """Write all of `data`. Raises OSError."""
    view = memoryview(data)
    while view:
        taken = file.write(bytes(view))
        if taken == 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        view = view[taken:]


def begin(files: Files, name: str, chunks: Iterable[bytes]) -> AppendFile:
    """Make `name` with the given content, durable up to the directory's entry; it stays open.

    The caller syncs the directory. What stood at `name` is replaced. Raises OSError, and then leaves
    `name` as it was (a crash may leave a temporary name).
    """
    temporary = f"{name}.{os.getpid()}{TEMPORARY_SUFFIX}"
    with suppress(FileNotFoundError):
        files.unlink(temporary)
    file = files.create(temporary)
    try:
        for chunk in chunks:
            write_all(file, chunk)
        file.sync()
        files.rename(temporary, name)
    except BaseException:
        file.close()
        with suppress(OSError):
            files.unlink(temporary)
        raise
    return file
