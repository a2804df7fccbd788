"""Full collections stay short while the inode table grows, and garbage still goes."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator, Mapping

import pytest

from guestmemfs_fuse.engine import short_collections

_MANY = 200_000


class Node:
    """May be part of a cycle."""

    other: object = None


@pytest.fixture
def looked_at() -> Iterator[list[int]]:
    """How many containers each full collection had to look at, while collections are kept short.

    Much is there already, as after reading a large snapshot: the first full one must not wait for a quarter
    of that.
    """
    found: list[int] = []
    before = [[number] for number in range(2 * _MANY)]

    def note(phase: str, info: Mapping[str, int]) -> None:
        if phase == "start" and info["generation"] == 2:
            found.append(sum(len(gc.get_objects(generation)) for generation in range(3)))

    thresholds = gc.get_threshold()
    gc.collect()
    short_collections.keep_short()
    gc.callbacks.insert(0, note)
    try:
        yield found
    finally:
        gc.callbacks.remove(note)
        gc.callbacks.remove(short_collections._set_aside)
        gc.set_threshold(*thresholds)
        gc.unfreeze()
        before.clear()


def test_a_full_collection_looks_only_at_what_came_since_the_last(looked_at: list[int]) -> None:
    kept = [[number] for number in range(_MANY)]
    assert len(kept) == _MANY
    assert len(looked_at) >= 5
    assert max(looked_at) < 30_000


def test_cycles_without_users_are_still_found(looked_at: list[int]) -> None:
    node = Node()
    node.other = node
    seen = weakref.ref(node)
    del node
    kept = [[number] for number in range(50_000)]
    assert kept and looked_at
    assert seen() is None


def test_what_was_set_aside_is_freed_like_anything_else(looked_at: list[int]) -> None:
    node = Node()
    seen = weakref.ref(node)
    kept = [[number] for number in range(50_000)]
    assert kept and looked_at
    del node
    assert seen() is None


def test_it_may_be_asked_for_twice(looked_at: list[int]) -> None:
    short_collections.keep_short()
    assert gc.callbacks.count(short_collections._set_aside) == 1
