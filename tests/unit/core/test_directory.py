"""A directory against a list of entries, and a listing that goes on while entries come and go."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestmemfs_fuse.core.directory import FIRST_COOKIE, Directory
from guestmemfs_fuse.core.types import ROOT_INO, Ino

names = st.integers(0, 30).map(lambda number: b"%d" % number)


@given(st.lists(st.tuples(st.sampled_from(["add", "remove", "replace", "restore"]), names), max_size=150))
def test_any_sequence_of_changes_is_what_a_list_would_be(changes: list[tuple[str, bytes]]) -> None:
    directory = Directory(ROOT_INO)
    model: dict[bytes, tuple[int, int]] = {}
    for number, (change, name) in enumerate(changes, 1):
        if change == "add" and name not in model:
            model[name] = (directory.next_cookie, number)
            directory.add(name, Ino(number))
        elif change == "remove" and name in model:
            assert directory.remove(name) == model.pop(name)[1]
        elif change == "replace" and name in model:
            cookie, former = model[name]
            assert directory.replace(name, Ino(number)) == former
            model[name] = (cookie, number)
        elif change == "restore":
            again = Directory(directory.parent, directory.next_cookie)
            again.restore(tuple(directory.after(0)))
            directory = again
        ordered = sorted((cookie, entry, ino) for entry, (cookie, ino) in model.items())
        assert list(directory.after(0)) == ordered
        assert len(directory) == len(model)
        assert dict(directory.items()) == {entry: ino for entry, (_, ino) in model.items()}
        for cookie, _, _ in ordered[::5]:
            assert list(directory.after(cookie)) == [each for each in ordered if each[0] > cookie]
    assert all(directory.get(b"%d" % at) == model.get(b"%d" % at, (0, None))[1] for at in range(31))


def filled(count: int) -> Directory:
    directory = Directory(ROOT_INO)
    for number in range(count):
        directory.add(b"%d" % number, Ino(number + 2))
    return directory


def test_cookies_begin_behind_dot_and_dot_dot() -> None:
    assert [cookie for cookie, _, _ in filled(2).after(0)] == [FIRST_COOKIE, FIRST_COOKIE + 1]


@pytest.mark.parametrize("removed_behind", [True, False])
def test_a_listing_survives_removing_and_adding_between_two_entries(removed_behind: bool) -> None:
    """rm -r: everything listed is removed at once, and gaps are closed under the listing's feet."""
    directory = filled(500)
    seen = []
    for _, name, _ in directory.after(0):
        seen.append(name)
        if removed_behind:
            directory.remove(name)
        if len(seen) == 250:
            directory.add(b"late", Ino(9999))
    assert seen == [b"%d" % number for number in range(500)] + [b"late"]
    assert len(directory) == (0 if removed_behind else 501)


def test_a_name_entered_again_gets_a_new_cookie() -> None:
    directory = filled(1)
    directory.remove(b"0")
    directory.add(b"0", Ino(5))
    assert list(directory.after(0)) == [(FIRST_COOKIE + 1, b"0", 5)]


def test_a_listing_that_begins_anywhere_is_answered() -> None:
    directory = filled(3)
    assert list(directory.after(-1)) == list(directory.after(0))
    assert list(directory.after(1 << 70)) == []


@pytest.mark.parametrize(
    "entries",
    [
        ((3, b"a", 9), (4, b"a", 9)),
        ((3, b"a", 9), (3, b"b", 9)),
        ((4, b"a", 9), (3, b"b", 9)),
        ((50, b"a", 9),),
        ((0, b"a", 9),),
        ((-1, b"a", 9),),
        ((3, "a", 9),),
        ((3, b"a", None),),
        ((3, b"a", -1),),
        ((3, b"a", 1 << 64),),
        ((3, b"a", True),),
        ((3.0, b"a", 9),),
        ((3, b"a"),),
        ((3, b"a", 9, 9),),
        ((3, b"a", 9), (4, b"b")),
        (5,),
        5,
    ],
)
def test_what_cannot_have_been_saved_is_refused(entries: Any) -> None:
    directory = Directory(ROOT_INO, 50)
    with pytest.raises((ValueError, TypeError, OverflowError)):
        directory.restore(entries)
    assert list(directory.after(0)) == []
    assert len(directory) == 0


def test_emptying_a_large_directory_from_the_front_takes_no_quadratic_time() -> None:
    directory = filled(50_000)
    began = time.process_time()  # the machine may be busy with something else
    for number in range(50_000):
        directory.remove(b"%d" % number)
    assert time.process_time() - began < 5
    assert len(directory._names) < 100
