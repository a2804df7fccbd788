"""The entries of one directory, by name and in the order in which they were made.

Owns its entries; the inodes they lead to are the State's. An entry's cookie is its readdir offset: it
grows with every insertion and is never reused, so a listing goes on correctly from any cookie while
entries come and go.

Entries stand in three parallel sequences in the order of their cookies, because insertion always happens
at the end: lookups are a dict and a bisection, a removed entry leaves a gap, and gaps are closed when they
are more than half. That takes half the memory of a sorted mapping, and 100,000 files are a case we measure.

Invariants: cookies ascend; every name of `_by_name` stands at its cookie; other places are gaps (None).
Called by state, decide, evolve, image, check and the readdir handler.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from operator import lt
from typing import Final

from guestmemfs_fuse.core.types import Cookie, Ino

FIRST_COOKIE: Final = 3
"""Behind `.` and `..`, which readdir shows at 1 and 2."""

_GAPS_KEPT: Final = 16


class Directory:
    """See the module. `parent` is the directory's own parent (the root's is the root)."""

    __slots__ = ("_by_name", "_cookies", "_gaps", "_inos", "_names", "next_cookie", "parent")

    def __init__(self, parent: Ino, next_cookie: int = FIRST_COOKIE) -> None:
        self.parent = parent
        self.next_cookie = next_cookie
        self._by_name: dict[bytes, Cookie] = {}
        self._cookies = array("Q")
        self._inos = array("Q")
        self._names: list[bytes | None] = []
        self._gaps = 0

    def __len__(self) -> int:
        return len(self._by_name)

    def get(self, name: bytes) -> Ino | None:
        """The inode of an entry, or None."""
        cookie = self._by_name.get(name)
        return None if cookie is None else Ino(self._inos[bisect_left(self._cookies, cookie)])

    def add(self, name: bytes, ino: Ino) -> None:
        """Enter `name`; it must be free."""
        cookie = Cookie(self.next_cookie)
        self.next_cookie += 1
        self._by_name[name] = cookie
        self._cookies.append(cookie)
        self._inos.append(ino)
        self._names.append(name)

    def restore(self, entries: tuple[tuple[Cookie, bytes, Ino], ...]) -> None:
        """Fill an empty directory with the entries `after` gave (loading an image; in C loops, for size).

        Raises ValueError or TypeError for entries that are none, a name that stands twice or cookies out
        of order, OverflowError for a number that cannot be an inode's or a cookie.
        """
        if not entries:
            return
        cookies, names, inos = zip(*entries, strict=True)
        if set(map(type, names)) != {bytes} or set(map(type, cookies + inos)) != {int}:
            raise ValueError("a directory's entries are not cookies, names and numbers")
        if cookies[0] <= 0 or cookies[-1] >= self.next_cookie or not all(map(lt, cookies, cookies[1:])):
            raise ValueError("a directory's cookies are out of order")
        by_name = dict(zip(names, cookies, strict=True))
        if len(by_name) != len(names):
            raise ValueError("a directory has a name twice")
        self._cookies, self._inos = array("Q", cookies), array("Q", inos)
        self._names = list(names)
        self._by_name = by_name

    def remove(self, name: bytes) -> Ino:
        """Take `name` out and return its inode. Raises KeyError when it is not there."""
        at = bisect_left(self._cookies, self._by_name.pop(name))
        ino = Ino(self._inos[at])
        self._names[at] = None
        self._gaps += 1
        if self._gaps > max(_GAPS_KEPT, len(self._by_name)):
            self._close_gaps()
        return ino

    def replace(self, name: bytes, ino: Ino) -> Ino:
        """Let `name` lead to another inode, at its place in the listing; returns the former."""
        at = bisect_left(self._cookies, self._by_name[name])
        former = Ino(self._inos[at])
        self._inos[at] = ino
        return former

    def after(self, cookie: int) -> Iterator[tuple[Cookie, bytes, Ino]]:
        """Entries behind `cookie`, in order; the directory may change between two of them."""
        at = bisect_right(self._cookies, cookie)
        while at < len(self._names):
            here, name = self._cookies[at], self._names[at]
            at += 1
            if name is not None:
                yield Cookie(here), name, Ino(self._inos[at - 1])
                at = bisect_right(self._cookies, here)

    def copy(self) -> Directory:
        """The same entries at the same places; costs little more than copying three arrays."""
        twin = Directory(self.parent, self.next_cookie)
        twin._by_name = self._by_name.copy()
        twin._cookies, twin._inos, twin._names = self._cookies[:], self._inos[:], self._names[:]
        twin._gaps = self._gaps
        return twin

    def items(self) -> Iterator[tuple[bytes, Ino]]:
        """Names and inodes; the directory must not change meanwhile."""
        for name, ino in zip(self._names, self._inos, strict=True):
            if name is not None:
                yield name, Ino(ino)

    def _close_gaps(self) -> None:
        kept = [at for at, name in enumerate(self._names) if name is not None]
        self._cookies = array("Q", [self._cookies[at] for at in kept])
        self._inos = array("Q", [self._inos[at] for at in kept])
        self._names = [self._names[at] for at in kept]
        self._gaps = 0
