"""The directory in which metadata lives, as the few calls that are needed of it.

`Files` is the seam at which tests put faults (no space, failing fsync, a crash before or after any step);
`DirectoryFiles` is the real one. It works relative to one directory descriptor, so it goes on working
when somebody mounts over the path, and in the private mounts of tmpfs and hugetlbfs regions.

Invariants: nothing here decides anything; every method is one or two system calls and raises OSError.
Called by atomic, journal, snapshot, store and compact.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

_MODE = 0o600


class AppendFile(Protocol):
    """One file that is written at its end."""

    def write(self, data: bytes) -> int:
        """One write(2) at the end; returns how many bytes it took."""

    def sync(self) -> None:
        """fdatasync(2)."""

    def truncate(self, length_bytes: int) -> None:
        """Cut the file to `length_bytes`."""

    def close(self) -> None:
        """Give the descriptor back."""


class Files(Protocol):
    """A directory of metadata files. Names are plain file names; all methods raise OSError."""

    @property
    def path(self) -> str:
        """Where it is, for messages."""

    def names(self) -> list[str]:
        """All names in it, sorted."""

    def read(self, name: str) -> bytes:
        """The whole file."""

    def size_bytes(self, name: str) -> int:
        """How long the file is."""

    def create(self, name: str) -> AppendFile:
        """A new empty file, for root only; FileExistsError when there is one."""

    def open_append(self, name: str) -> AppendFile:
        """An existing file, to be written at its end."""

    def rename(self, name: str, new_name: str) -> None:
        """rename(2): replaces `new_name` atomically."""

    def unlink(self, name: str) -> None:
        """Remove a name."""

    def sync(self) -> None:
        """fsync(2) of the directory: names made, renamed and removed are durable."""


class OpenAppendFile:
    """An AppendFile on a descriptor it owns."""

    __slots__ = ("_fd",)

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def write(self, data: bytes) -> int:
        return os.write(self._fd, data)

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def truncate(self, length_bytes: int) -> None:
        os.ftruncate(self._fd, length_bytes)

    def close(self) -> None:
        os.close(self._fd)


class DirectoryFiles:
    """Files in the directory `path`, which must exist; holds a descriptor of it until `close`."""

    def __init__(self, path: str | Path) -> None:
        self._path = str(path)
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    @property
    def path(self) -> str:
        return self._path

    def names(self) -> list[str]:
        return sorted(os.listdir(self._fd))

    def read(self, name: str) -> bytes:
        fd = self._open(name, os.O_RDONLY)
        with open(fd, "rb", buffering=0) as file:
            return file.readall()

    def size_bytes(self, name: str) -> int:
        return os.stat(name, dir_fd=self._fd, follow_symlinks=False).st_size

    def create(self, name: str) -> OpenAppendFile:
        return OpenAppendFile(self._open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL))

    def open_append(self, name: str) -> OpenAppendFile:
        return OpenAppendFile(self._open(name, os.O_WRONLY | os.O_APPEND))

    def rename(self, name: str, new_name: str) -> None:
        os.rename(name, new_name, src_dir_fd=self._fd, dst_dir_fd=self._fd)

    def unlink(self, name: str) -> None:
        os.unlink(name, dir_fd=self._fd)

    def sync(self) -> None:
        os.fsync(self._fd)

    def close(self) -> None:
        """Give the directory's descriptor back."""
        os.close(self._fd)

    def _open(self, name: str, flags: int) -> int:
        return os.open(name, flags | os.O_CLOEXEC | os.O_NOFOLLOW, _MODE, dir_fd=self._fd)
