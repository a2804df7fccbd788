"""What a check works on: a fresh directory of a filesystem under test, with users to act in it.

`Place` is one filesystem under test (the mount, or the tmpfs that is the control); `Tree` is one check's
directory in it. A tree begins as the words of `given` say:

    d/          a directory                 l->target   a symbolic link
    f           an empty file               p|          a named pipe
    f:4096      a file of that size         s=          a socket
    f+x         ... with a second name x    ...~1755    with that mode        ...@alice   owned by alice

Called by table.py and the test files.
"""

from __future__ import annotations

import errno
import itertools
import os
import re
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from tests.mount.posix.user import ALICE, BOB, MATE, ROOT, Identity, User

IDENTITIES: Final = {each.name: each for each in (ROOT, ALICE, BOB, MATE)}
ERRNO_NAMES: Final = {**errno.errorcode, errno.EOPNOTSUPP: "EOPNOTSUPP"}
_WORD: Final = re.compile(
    r"(?P<name>[^|=:+~@>]+?)(?P<kind>/|\||=|->(?P<target>[^~@]+))?(?P<size>:\d+)?"
    r"(?P<second>\+[^~@]+)?(?P<mode>~[0-7]+)?(?P<owner>@\w+)?"
)


class Tries:
    """Makes calls and returns the answer in a word: what the call returned, "ok", or the errno's name."""

    def __init__(self, make: Callable[..., Any]) -> None:
        self._make = make

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def attempt(*args: object, **kwargs: object) -> Any:
            try:
                value = self._make(name, *args, **kwargs)
            except OSError as error:
                return ERRNO_NAMES[error.errno or 0]
            return "ok" if value is None else value

        return attempt


class Hands:
    """The calls of one user in one tree: `hands.mkdir("d")`, or `hands.tries.mkdir("d")` for its answer."""

    def __init__(self, user: User) -> None:
        self.user = user
        self.tries = Tries(user.call)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*args: object, **kwargs: object) -> Any:
            return self.user.call(name, *args, **kwargs)

        return call


class Place:
    """A filesystem under test. Owns the users' processes and a descriptor of its root."""

    def __init__(self, kind: str, root_path: Path) -> None:
        self.kind = kind
        self.root_path = root_path
        self.root_fd = os.open(root_path, os.O_RDONLY | os.O_DIRECTORY)
        self._users: dict[str, User] = {}
        self._numbers = itertools.count(1)
        self._kept: Tree | None = None

    def user(self, identity: Identity) -> User:
        """The process of that user, started when first asked for."""
        if identity.name not in self._users:
            self._users[identity.name] = User(identity, [self.root_fd])
        return self._users[identity.name]

    def tree(self, given: str) -> Tree:
        """A fresh directory with what `given` says in it; or one that was kept and says the same."""
        kept, self._kept = self._kept, None
        if kept is not None:
            if kept.given == given:
                return kept
            kept.remove()
        return Tree(self, f"c{next(self._numbers):04d}", given)

    def keep(self, tree: Tree) -> None:
        """Use a tree again that nothing has changed."""
        tree.forget()
        self._kept = tree

    def close(self) -> None:
        """End the users."""
        if self._kept is not None:
            self._kept.remove()
        for user in self._users.values():
            user.end()
        os.close(self.root_fd)


class Tree:
    """A check's directory. `tree.call(...)` acts as root, `tree.alice.call(...)` as alice."""

    def __init__(self, place: Place, name: str, given: str) -> None:
        self.place = place
        self.name = name
        self.given = given
        self.is_unchanged = False
        self._hands = {"root": Hands(place.user(ROOT))}
        self._hands["root"].begin(place.root_fd, name, _building(given))

    @property
    def is_control(self) -> bool:
        return self.place.kind == "control"

    def hands(self, name: str) -> Hands:
        """The calls of a user, by name."""
        if name not in self._hands:
            self._hands[name] = Hands(self.place.user(IDENTITIES[name]))
            self._hands[name].enter(self.place.root_fd, self.name)
        return self._hands[name]

    def __getattr__(self, name: str) -> Any:
        return self.hands(name) if name in IDENTITIES else getattr(self.hands("root"), name)

    def forget(self) -> None:
        """Let all users close what the check left open, and come back to its directory."""
        for hands in self._hands.values():
            hands.forget_all()
            hands.enter(self.place.root_fd, self.name)

    def remove(self) -> None:
        """Take the directory away, and whatever the check left open."""
        for name, hands in self._hands.items():
            if name != "root":
                hands.forget_all()
        self.place.user(ROOT).call("raze", self.place.root_fd, self.name)

    def place_fd(self) -> int:
        """The filesystem's root, as a descriptor of root's process."""
        return self.place.root_fd

    def opened(self, path: str | bytes, flags: int = os.O_RDWR, mode: int = 0o644) -> int:
        """open(2) as root."""
        return int(self.hands("root").open(path, flags, mode))

    def eventually(self, condition: Callable[[], bool]) -> bool:
        """Whether it comes true within seconds; for what the kernel does behind the caller's back."""
        deadline = time.monotonic() + 5
        while not condition() and time.monotonic() < deadline:
            time.sleep(0.001)
        return condition()

    def mode(self, path: str) -> str:
        """The permission bits, in octal."""
        return f"{stat.S_IMODE(self.lstat(path).st_mode):o}"

    def owner(self, path: str) -> tuple[str, str]:
        """Names of owner and group, as in IDENTITIES (a group by the user whose it is)."""
        found = self.lstat(path)
        names = {each.uid: each.name for each in IDENTITIES.values()}
        return names.get(found.st_uid, str(found.st_uid)), names.get(found.st_gid, str(found.st_gid))

    def exists(self, path: str | bytes) -> bool:
        """Whether lstat(2) finds something there."""
        return self.hands("root").tries.lstat(path) != "ENOENT"


def _building(given: str) -> list[tuple[object, ...]]:
    """The calls that make what `given` says."""
    steps: list[tuple[object, ...]] = []
    names: set[str] = set()
    for word in given.split():
        parts = _WORD.fullmatch(word)
        assert parts is not None, f"{word} says nothing"
        if parts["name"] not in names:
            names.add(parts["name"])
            steps += _making(parts)
        if parts["owner"]:
            identity = IDENTITIES[parts["owner"][1:]]
            steps.append(("lchown", parts["name"], identity.uid, identity.gid))
        if parts["mode"]:
            steps.append(("chmod", parts["name"], int(parts["mode"][1:], 8)))
    return steps


def _making(parts: re.Match[str]) -> list[tuple[object, ...]]:
    """The calls that make what one word says."""
    name, kind = parts["name"], parts["kind"]
    if parts["target"]:
        return [("symlink", parts["target"], name)]
    if kind == "/":
        return [("mkdir", name)]
    if kind in ("|", "="):
        return [("mknod", name, (stat.S_IFIFO if kind == "|" else stat.S_IFSOCK) | 0o644)]
    steps: list[tuple[object, ...]] = [("mknod", name)]
    if parts["size"]:
        steps.append(("truncate", name, int(parts["size"][1:])))
    if parts["second"]:
        steps.append(("link", name, parts["second"][1:]))
    return steps
