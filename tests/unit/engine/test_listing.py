"""Files by their paths, also while they come, go and move."""

from __future__ import annotations

import random
import stat
from collections.abc import Callable

import pytest
import trio

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.errors import GuestmemfsError
from guestmemfs_fuse.core.state import Inode
from guestmemfs_fuse.core.types import ROOT_INO, Ino
from guestmemfs_fuse.engine import listing
from tests.unit.engine.fakes import Bench

FILES = 1_000


def make(bench: Bench, parent: Ino, name: bytes, kind: int = stat.S_IFREG) -> Ino:
    return bench.engine.make(cmd.Make(parent, name, kind | 0o700, 0, 0))


@pytest.fixture
def bench() -> Bench:
    """Two directories with many files each."""
    made = Bench()
    for letter in (b"b", b"a"):
        directory = make(made, ROOT_INO, letter, stat.S_IFDIR)
        for number in range(FILES):
            make(made, directory, b"%d" % (number * 7919 % FILES))
    return made


def paths(listed: listing.Listing) -> list[str]:
    return [path for path, _ in listed]


def gather(bench: Bench, between: Callable[[], None] = lambda: None) -> listing.Listing:
    """What is gathered while `between` is called between any two slices."""

    async def run() -> listing.Listing:
        found: listing.Listing = []
        done = False

        async def meanwhile() -> None:
            while not done:
                between()
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(meanwhile)
            found = await listing.gathered(bench.engine.ledger)
            done = True
        return found

    return trio.run(run)


def test_files_are_listed_by_path_and_once_whatever_their_names(bench: Bench) -> None:
    ino = make(bench, ROOT_INO, b"zz")
    bench.engine.change(cmd.Link(ino, ROOT_INO, b"zzz"))
    make(bench, ROOT_INO, b"fifo", stat.S_IFIFO)
    found = paths(listing.listing(bench.engine.state))
    assert found == [*sorted(f"/{where}/{number}" for where in "ab" for number in range(FILES)), "/zz"]


def test_orphans_come_last_without_a_path(bench: Bench) -> None:
    ino = make(bench, ROOT_INO, b"gone")
    bench.engine.change(cmd.Unlink(ROOT_INO, b"gone"))
    assert ino in bench.engine.state.orphans
    for found in (listing.listing(bench.engine.state), listing.in_order(gather(bench))):
        assert [inode.ino for path, inode in found if not path] == [ino]
        assert found[-1][1].ino == ino


def nest(bench: Bench, name: bytes, depth: int) -> Ino:
    at = ROOT_INO
    for _ in range(depth):
        at = make(bench, at, name, stat.S_IFDIR)
    return at


def test_regression_a_path_that_no_call_takes_is_listed_by_its_end(bench: Bench) -> None:
    """100 files below 10,000 directories were 250 MB of text: status failed, the daemon grew by 800 MB."""
    name = b"x" * 200
    bottom = nest(bench, name, 60)  # some 12,000 characters
    for number in range(10):
        make(bench, bottom, b"%d" % number)
    for found in (paths(listing.listing(bench.engine.state)), paths(gather(bench))):
        assert max(map(len, found)) <= 4096
        assert {path.rpartition("/")[2] for path in found if path.startswith("\u2026/x")} == set("0123456789")
    assert len(found) == 2 * FILES + 10


def test_regression_more_text_than_a_reply_holds_is_refused_before_it_is_made(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "_MOST_OF_ALL", 2_000)
    with pytest.raises(GuestmemfsError, match="the paths of all files"):
        trio.run(listing.gathered, bench.engine.ledger)


def test_what_is_gathered_at_rest_is_the_listing(bench: Bench) -> None:
    assert listing.in_order(gather(bench)) == listing.listing(bench.engine.state)


def test_callers_are_answered_between_slices(bench: Bench) -> None:
    turns = 0

    def count() -> None:
        nonlocal turns
        turns += 1

    gather(bench, count)
    assert turns >= 2 * FILES // listing._SLICE


@pytest.mark.parametrize("seed", range(5))
def test_a_file_that_is_there_all_the_time_is_listed_once_while_others_move_come_and_go(
    bench: Bench, seed: int
) -> None:
    state, dice = bench.engine.state, random.Random(seed)
    directories = [Ino(state.root.directory.get(name) or 0) for name in (b"a", b"b")]  # type: ignore[union-attr]
    stays = {inode.ino for inode in state.inodes.values() if inode.is_file}
    number = 0

    def stir() -> None:
        nonlocal number
        for _ in range(20):
            number += 1
            source, target = dice.sample(directories, 2)
            inode = state.inodes[source]
            assert inode.directory is not None
            name = dice.choice([name for name, _ in inode.directory.items()])
            if number < 400:  # moves end at last, so that the second walk is in peace
                bench.engine.change(cmd.Rename(source, name, target, b"moved-%d" % number))
            extra = make(bench, target, b"extra-%d" % number)
            bench.engine.change(cmd.Unlink(target, b"extra-%d" % number))
            assert extra not in stays

    found = [inode.ino for _, inode in gather(bench, stir)]
    assert len(found) == len(set(found))
    assert stays <= set(found)


def test_a_directory_that_is_removed_before_it_is_looked_into_is_passed_over() -> None:
    bench = Bench()
    for number in range(3 * listing._SLICE):
        make(bench, ROOT_INO, b"f%d" % number)
    make(bench, ROOT_INO, b"d", stat.S_IFDIR)
    removed = False

    def remove() -> None:
        nonlocal removed
        if not removed:
            removed = True
            bench.engine.change(cmd.Rmdir(ROOT_INO, b"d"))

    assert len(gather(bench, remove)) == 3 * listing._SLICE


def test_order_does_not_look_at_inodes() -> None:
    """Two files may have had the same path, one after the other."""
    first, second = (Inode(Ino(ino), 0o100600, 0, 0, 1, 0, 0, 0) for ino in (2, 3))
    listed = [("", first), ("/b", first), ("/a", second), ("/b", second)]
    assert paths(listing.in_order(listed)) == ["/a", "/b", "/b", ""]
