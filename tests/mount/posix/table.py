"""Tables of checks: what a call is asked, and what it must answer.

A check runs on the control, a tmpfs of the same kernel, and must answer there what the table says: so
the table is right about POSIX as Linux has it. Then it runs on the mount and must answer the same,
or what differences.py says instead. A refused call must moreover have changed nothing.

    table = Table("mkdir")
    table.rows("d/ f", [("below a file", do.mkdir("f/x"), "ENOTDIR")])

    @table.check("counts in its parent's links", gives=3)
    def _(t: Tree) -> object:
        t.mkdir("d")
        return t.stat(".").st_nlink
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pytest

from tests.mount.posix.differences import DIFFERENCES
from tests.mount.posix.tree import ERRNO_NAMES, IDENTITIES, Place, Tree

AS_CONTROL: Final = object()
"""An answer that is whatever the control says."""

TABLES: dict[str, Table] = {}
"""All tables that were imported, by call."""


@dataclass(frozen=True, slots=True)
class Fd:
    """An argument that is a descriptor: the path is opened by the same user right before the call."""

    path: str
    flags: int = os.O_RDWR


@dataclass(frozen=True, slots=True)
class Call:
    """A call to be made: `do.mkdir("d")`, or as somebody else `do.alice.mkdir("d")`."""

    user: str
    name: str
    args: tuple[object, ...]

    def answer(self, tree: Tree) -> Any:
        """Make it; what it returned, "ok", or the errno's name."""
        hands = tree.hands(self.user)
        args = [hands.open(each.path, each.flags) if isinstance(each, Fd) else each for each in self.args]
        return getattr(hands.tries, self.name)(*args)


class Do:
    """Spells calls; see Call."""

    def __init__(self, user: str = "root") -> None:
        self._user = user

    def __getattr__(self, name: str) -> Any:
        if name in IDENTITIES:
            return Do(name)
        return lambda *args: Call(self._user, name, args)


do = Do()


@dataclass(frozen=True, slots=True)
class Places:
    """The filesystems every check runs on: the mount, and the control with the same flags and size."""

    mount: Place
    control: Place


@dataclass(frozen=True, slots=True)
class Check:
    """One question: its id is "call: title"; `run` returns the answer on a tree that `given` describes."""

    id: str
    given: str
    run: Callable[[Tree], object]
    gives: object

    def __str__(self) -> str:
        return self.id.replace(" ", "_")


Row = tuple[str, Call, object]


class Table:
    """The checks of one call."""

    def __init__(self, call: str) -> None:
        self.call = call
        self.checks: list[Check] = []
        TABLES[call] = self

    def rows(self, given: str, rows: Sequence[Row]) -> None:
        """One call on a given tree each: (title, call, answer)."""
        for title, call, gives in rows:
            self._add(title, given, _single(call, xattrs=self.call == "xattr"), gives)

    def times(self, given: str, rows: Sequence[tuple[str, Call, dict[str, str]]]) -> None:
        """Which time stamps a call moves: by path, of "a", "m" and "c" those that differ from before."""
        for title, call, gives in rows:
            self._add(title, given, _timed(call, gives), gives)

    def check(
        self, title: str, *, given: str = "", gives: object = AS_CONTROL
    ) -> Callable[[Callable[[Tree], object]], Callable[[Tree], object]]:
        """A check in several steps; the decorated function returns the answer."""

        def add(function: Callable[[Tree], object]) -> Callable[[Tree], object]:
            self._add(title, given, function, gives)
            return function

        return add

    def test(self) -> Callable[..., None]:
        """The pytest function that runs all checks of this table."""

        @pytest.mark.parametrize("check", self.checks, ids=str)
        def run(check: Check, places: Places) -> None:
            hold(check, places.mount, places.control)

        return run

    def _add(self, title: str, given: str, run: Callable[[Tree], object], gives: object) -> None:
        check = Check(f"{self.call}: {title}", given, run, gives)
        assert all(each.id != check.id for each in self.checks), f"two checks are called {check.id}"
        self.checks.append(check)


def _single(call: Call, xattrs: bool) -> Callable[[Tree], object]:
    def run(tree: Tree) -> object:
        before = tree.snapshot(b".", xattrs)
        answer = call.answer(tree)
        if isinstance(answer, str) and answer in ERRNO_NAMES.values():
            after = tree.snapshot(b".", xattrs)
            if before != after:
                changed = sorted(set(before.items()) ^ set(after.items()), key=repr)
                return f"{answer}, yet something changed: {changed}"
            tree.is_unchanged = True
        return answer

    return run


def _timed(call: Call, watched: dict[str, str]) -> Callable[[Tree], object]:
    def run(tree: Tree) -> object:
        before = tree.past_times(list(watched))
        answer = call.answer(tree)
        if isinstance(answer, str) and answer in ERRNO_NAMES.values():
            return answer
        after = tree.times(list(watched))
        return {
            path: "".join(
                letter
                for letter, then, now in zip("amc", before[path] or (0, 0, 0), after[path], strict=True)
                if now != then
            )
            for path in watched
        }

    return run


def run_check(check: Check, place: Place) -> object:
    """Run a check on a tree of `place`, which is removed whatever happens, unless nothing happened to it."""
    tree = place.tree(check.given)
    tree.is_unchanged = False
    try:
        return check.run(tree)
    finally:
        if tree.is_unchanged:
            place.keep(tree)
        else:
            tree.remove()


def hold(check: Check, mount: Place, control: Place) -> None:
    """Fail unless control and mount answer as they must."""
    said = run_check(check, control)
    if check.gives is not AS_CONTROL:
        assert said == check.gives, f"the table is wrong: the control answers {said!r}"
    answer = run_check(check, mount)
    difference = DIFFERENCES.get(check.id)
    if difference is None:
        assert answer == said, f"{check.id}: the mount answers {answer!r}, the control {said!r}"
    else:
        assert answer == difference.ours, f"{check.id}: the mount answers {answer!r}; {difference.reason}"
        assert answer != said, f"{check.id} is listed as a difference and is none"
