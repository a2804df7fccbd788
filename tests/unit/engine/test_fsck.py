"""fsck of a stopped instance: every kind of damage is found, named, and mended without losing data."""

from __future__ import annotations

import stat
from collections.abc import Callable

import pytest

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.directory import Directory
from guestmemfs_fuse.core.state import Inode
from guestmemfs_fuse.core.types import ROOT_INO, Ino
from guestmemfs_fuse.engine import fsck
from tests.unit.engine.fakes import BLOCK
from tests.unit.engine.fsck_rig import Stopped, lookup

LOST = b"lost+found"


def entries(there: Stopped, ino: Ino) -> Directory:
    directory = there.state.inodes[ino].directory
    assert directory is not None
    return directory


def test_a_whole_instance_is_clean_and_counted() -> None:
    there = Stopped()
    result = there.fsck(repair=True)
    assert result.clean
    checked = result.checked
    assert (checked.inodes, checked.names, checked.files, checked.backings) == (5, 5, 2, 2)
    assert checked.transactions > 0


def test_checking_alone_changes_nothing() -> None:
    there = Stopped()
    there.region.plant(99, BLOCK, BLOCK)
    there.files.put("journal-00000000000000ff.gmj.1.tmp", b"rest")
    there.state.inodes[there.f].nlink = 7
    steps, sizes = there.files.steps, dict(there.region.sizes)
    assert not there.fsck().clean
    assert (there.files.steps, there.region.sizes) == (steps, sizes)


# -- the state in itself ----------------------------------------------------------------------------


def wrong_nlink(there: Stopped) -> None:
    there.state.inodes[there.f].nlink = 7


def wrong_nlink_of_a_directory(there: Stopped) -> None:
    there.state.inodes[there.d].nlink = 9


def no_links_although_named(there: Stopped) -> None:
    there.state.inodes[there.f].nlink = 0


def wrong_parent(there: Stopped) -> None:
    entries(there, there.d).parent = there.e


def dangling(there: Stopped) -> None:
    entries(there, there.d).add(b"nothing", Ino(777))


def without_a_name(there: Stopped) -> None:
    entries(there, there.d).remove(b"f")


def a_ring_of_directories(there: Stopped) -> None:
    entries(there, ROOT_INO).remove(b"d")
    entries(there, ROOT_INO).remove(b"e")
    entries(there, there.d).add(b"e", there.e)
    entries(there, there.e).add(b"d", there.d)


def a_directory_with_two_names(there: Stopped) -> None:
    entries(there, there.e).add(b"again", there.d)


def number_to_be_reused(there: Stopped) -> None:
    there.state.next_ino = there.f


def no_root(there: Stopped) -> None:
    del there.state.inodes[ROOT_INO]


def a_file_that_says_it_is_a_directory(there: Stopped) -> None:
    there.state.inodes[there.g].mode = stat.S_IFDIR | 0o755


def a_directory_that_says_it_is_a_file(there: Stopped) -> None:
    there.state.inodes[there.d].mode = stat.S_IFREG | 0o644


def an_impossible_name(there: Stopped) -> None:
    entries(there, there.d).remove(b"f")
    entries(there, there.d).add(b"../f", there.f)


def children_of_a_removed_directory(there: Stopped) -> None:
    entries(there, ROOT_INO).remove(b"d")
    there.state.inodes[there.d].nlink = 0


TREES: dict[Callable[[Stopped], None], set[str]] = {
    wrong_nlink: {"wrong-nlink"},
    wrong_nlink_of_a_directory: {"wrong-nlink"},
    no_links_although_named: {"wrong-nlink"},
    wrong_parent: {"wrong-parent"},
    dangling: {"dangling-entry"},
    without_a_name: {"unreachable", "wrong-nlink"},
    a_ring_of_directories: {"unreachable", "wrong-nlink", "wrong-parent"},
    a_directory_with_two_names: {"directory-linked-twice", "wrong-parent", "wrong-nlink"},
    number_to_be_reused: {"number-reused"},
    no_root: {"no-root"},
    a_file_that_says_it_is_a_directory: {"wrong-type", "stray-backing"},
    a_directory_that_says_it_is_a_file: {"wrong-type", "missing-backing"},
    an_impossible_name: {"impossible-name"},
    children_of_a_removed_directory: {"unreachable", "wrong-nlink"},
}


@pytest.mark.parametrize("damage", TREES, ids=lambda damage: damage.__name__)
def test_every_damage_to_the_tree_is_found_by_its_name(damage: Callable[[Stopped], None]) -> None:
    there = Stopped()
    damage(there)
    there.plant()
    result = there.fsck()
    assert TREES[damage] <= {finding.kind for finding in result.findings}
    assert all(finding.detail and "\n" not in finding.detail for finding in result.findings)
    assert not any(finding.repaired for finding in result.findings)
    assert len(result.findings) == len({(finding.kind, finding.ino) for finding in result.findings}), (
        "said twice"
    )


MENDABLE = [damage for damage in TREES if damage is not a_file_that_says_it_is_a_directory]


@pytest.mark.parametrize("damage", MENDABLE, ids=lambda damage: damage.__name__)
def test_every_damage_to_the_tree_is_mended_and_no_file_is_lost(damage: Callable[[Stopped], None]) -> None:
    there = Stopped()
    damage(there)
    there.plant()
    state = there.mended()
    for ino, blocks in ((there.f, 2), (there.g, 1)):
        assert state.inodes[ino].size_bytes == blocks * BLOCK
        assert state.inodes[ino].nlink > 0
        assert there.region.memory[ino] == blocks * BLOCK


def test_what_no_path_leads_to_is_in_lost_and_found_by_its_number() -> None:
    there = Stopped()
    without_a_name(there)
    a_ring_of_directories(there)
    there.plant()
    state = there.mended()
    assert lookup(state, LOST, b"#%d" % there.f) == there.f
    found = lookup(state, LOST, b"#%d" % there.d)
    assert found == there.d
    assert lookup(state, LOST, b"#%d" % there.d, b"e") == there.e
    place = lookup(state, LOST)
    assert place is not None
    assert stat.S_IMODE(state.inodes[place].mode) == 0o700


def test_a_file_called_lost_and_found_stays_what_it_is() -> None:
    there = Stopped()
    mine = there.make(LOST)
    without_a_name(there)
    there.plant()
    state = there.mended()
    assert lookup(state, LOST) == mine
    assert lookup(state, LOST + b".1", b"#%d" % there.f) == there.f


def test_an_orphan_is_no_problem_whether_its_memory_is_there_or_not() -> None:
    there = Stopped()
    there.do(cmd.Unlink(there.d, b"f"))
    assert there.fsck().clean
    there.region.discard(there.state.inodes[there.f])
    assert there.fsck().clean


# -- the state against the region -------------------------------------------------------------------


def test_a_backing_of_the_wrong_size_follows_the_journal() -> None:
    there = Stopped()
    there.region.sizes[there.f] = BLOCK
    assert [finding.kind for finding in there.fsck().findings] == ["backing-size"]
    there.mended()
    assert there.region.sizes[there.f] == 2 * BLOCK


def test_memory_behind_a_file_is_given_back() -> None:
    there = Stopped()
    there.region.memory[there.f] = 5 * BLOCK
    assert [finding.kind for finding in there.fsck().findings] == ["backing-memory"]
    there.mended()
    assert there.region.memory[there.f] == 2 * BLOCK


def test_an_empty_backing_without_a_file_is_removed() -> None:
    there = Stopped()
    there.region.plant(50, 0, 0)
    assert [finding.kind for finding in there.fsck().findings] == ["empty-stray"]
    there.mended()
    assert 50 not in there.region.sizes


@pytest.mark.parametrize("ino", [3, 50])
def test_memory_without_a_file_gets_one_in_lost_and_found(ino: int) -> None:
    there = Stopped()
    if ino == 3:  # a number that was given out: its file is gone
        there.do(cmd.Unlink(there.d, b"f"))
        there.do(cmd.Reap(there.f))
        assert there.f == ino
    there.region.plant(ino, 2 * BLOCK - 5, 2 * BLOCK)
    assert [finding.kind for finding in there.fsck().findings] == ["stray-backing"]
    state = there.mended()
    assert lookup(state, LOST, b"#%d" % ino) == ino
    assert state.inodes[Ino(ino)].size_bytes == 2 * BLOCK - 5
    assert there.region.memory[Ino(ino)] == 2 * BLOCK
    assert state.next_ino > ino
    assert stat.S_IMODE(state.inodes[Ino(ino)].mode) == 0o600


def test_memory_whose_file_is_gone_gets_its_old_name_back_where_that_still_stands() -> None:
    there = Stopped()
    del there.state.inodes[there.f]
    there.plant()
    assert {finding.kind for finding in there.fsck().findings} == {"dangling-entry", "stray-backing"}
    state = there.mended()
    assert lookup(state, b"d", b"f") == there.f
    assert lookup(state, LOST) is None


def test_a_file_whose_memory_is_gone_stays_as_an_empty_one() -> None:
    there = Stopped()
    there.region.discard(there.state.inodes[there.f])
    (finding,) = there.fsck().findings
    assert finding.kind == "missing-backing"
    assert str(2 * BLOCK) in finding.detail
    state = there.mended()
    assert state.inodes[there.f].size_bytes == 0
    assert there.region.sizes[there.f] == 0


def test_a_region_that_cannot_be_reached_is_left_out_and_said() -> None:
    there = Stopped()
    there.region.plant(50, BLOCK, BLOCK)
    there.state.inodes[there.g].nlink = 5
    there.plant()
    result = there.fsck(repair=True, region=False)
    assert result.checked.backings is None
    assert [(finding.kind, finding.repaired) for finding in result.findings] == [("wrong-nlink", True)]


def test_what_could_not_be_mended_is_not_called_repaired() -> None:
    there = Stopped()
    a_file_that_says_it_is_a_directory(there)
    there.plant()
    result = there.fsck(repair=True)
    left = {finding.kind for finding in result.unrepaired}
    assert left == {"stray-backing"}, "its number belongs to a directory now, but its memory is kept"
    assert there.region.memory[there.g] == BLOCK


def test_a_finding_that_appears_while_mending_is_said_too() -> None:
    old, new = fsck.Finding("a", 1, "x"), fsck.Finding("b", 2, "y")
    assert fsck.judged([old], [new]) == (fsck.Finding("a", 1, "x", repaired=True), new)


def test_an_inode_with_every_field_at_its_limit_is_survived() -> None:
    there = Stopped()
    big = (1 << 64) - 1
    there.state.inodes[Ino(60)] = Inode(Ino(60), 0, big, big, 5, 0, 0, 0, size_bytes=-1)
    there.plant()
    assert {"unreachable", "wrong-size"} <= {finding.kind for finding in there.fsck().findings}
    result = there.fsck(repair=True)
    assert {finding.kind for finding in result.unrepaired} <= {"wrong-size"}
