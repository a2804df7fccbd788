"""The holder's store: descriptors by name, until somebody who may lets go of them.

Invariants: owns every descriptor in it. Storing a file that is there already under that name replaces it.
systemd compares with kcmp(2); here device and inode decide, so of several /dev/fuse connections only the
newest stays: an instance has one mount. Anonymous inodes (live update sessions) are all the same by that
measure and need names of their own. Used by the holder only.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class FdKeeper:
    """Named descriptors, in the order in which they came."""

    def __init__(self) -> None:
        self._fds: list[tuple[str, int]] = []

    def __len__(self) -> int:
        return len(self._fds)

    def all(self) -> list[tuple[str, int]]:
        """(name, fd) of everything that is kept; the fds stay ours."""
        return list(self._fds)

    def has(self, name: str) -> bool:
        """Whether anything is kept under name."""
        return any(each == name for each, _fd in self._fds)

    def store(self, name: str, fds: Iterable[int]) -> None:
        """Keep fds, which become ours, under name."""
        for fd in fds:
            same = [old for each, old in self._fds if each == name and _identity(old) == _identity(fd)]
            self._close(same)
            self._fds.append((name, fd))

    def remove(self, name: str) -> None:
        """Close everything kept under name."""
        self._close([fd for each, fd in self._fds if each == name])

    def clear(self) -> None:
        """Close everything: guest memory that nobody else has open is gone."""
        self._close([fd for _name, fd in self._fds])

    def _close(self, fds: list[int]) -> None:
        self._fds = [(name, fd) for name, fd in self._fds if fd not in fds]
        for fd in fds:
            os.close(fd)


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino
