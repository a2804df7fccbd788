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

    def restore(self, name: bytes, ino: Ino, cookie: Cookie) -> None:
        """Enter `name` under the cookie it had (loading an image).

        Raises ValueError for a name that is there or a cookie that is not behind the last one,
        OverflowError for a number that cannot be an inode's.
        """
        if name in self._by_name:
            raise ValueError(f"a directory has {name!r} twice")
        if not (self._cookies[-1] if self._cookies else 0) < cookie < self.next_cookie:
            raise ValueError(f"cookie {cookie} of {name!r} is out of order")
        self._inos.append(ino)
        self._cookies.append(cookie)
        self._names.append(name)
        self._by_name[name] = cookie

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
