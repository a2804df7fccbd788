"""The holder's store: descriptors by name, until somebody who may lets go of them.

Invariants: owns every descriptor in it. Storing a file that is there already under that name replaces it.
systemd compares with kcmp(2); here device and inode decide, so of several /dev/fuse connections only the
newest stays: an instance has one mount. Anonymous inodes (live update sessions) are all the same by that
measure and need names of their own. Storing costs the same however much is kept: a memfd region has a name
for each file, and gives them all at once to a new holder. Used by the holder only.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class FdKeeper:
    """Named descriptors; names in the order in which they came first."""

    def __init__(self) -> None:
        self._fds: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._fds.values()))

    def all(self) -> list[tuple[str, int]]:
        """(name, fd) of everything that is kept; the fds stay ours."""
        return [(name, fd) for name, fds in self._fds.items() for fd in fds]

    def has(self, name: str) -> bool:
        """Whether anything is kept under name."""
        return name in self._fds

    def store(self, name: str, fds: Iterable[int]) -> None:
        """Keep fds, which become ours, under name."""
        for fd in fds:
            kept, new = self._fds.get(name, []), _identity(fd)
            same = [old for old in kept if _identity(old) == new]
            self._fds[name] = [old for old in kept if old not in same] + [fd]
            _close(same)

    def remove(self, name: str) -> None:
        """Close everything kept under name."""
        _close(self._fds.pop(name, []))

    def clear(self) -> None:
        """Close everything: guest memory that nobody else has open is gone."""
        fds, self._fds = self.all(), {}
        _close([fd for _name, fd in fds])


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _identity(fd: int) -> tuple[int, int]:
    found = os.fstat(fd)
    return found.st_dev, found.st_ino
