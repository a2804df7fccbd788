"""A repair that did not reach the memory: the daemon after it believes the memory, once."""

from __future__ import annotations

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.engine import after_salvage
from guestmemfs_fuse.metadata import journal
from guestmemfs_fuse.metadata.framing import HEADER_BYTES
from guestmemfs_fuse.metadata.store import Store
from tests.unit.engine.fakes import BLOCK
from tests.unit.engine.fsck_rig import REGION, Stopped


def salvaged() -> Stopped:
    """The record that made /g grow to 6 blocks is damaged; /d/f was cut, and its memory is not cut yet."""
    there = Stopped()
    at = there.files.size_bytes(journal.segment_name(1))
    there.resize(there.g, 6 * BLOCK)
    there.do(cmd.Pin(there.f, True))
    data = bytearray(there.files.read(journal.segment_name(1)))
    data[at + 20] ^= 0xFF
    there.files.put(journal.segment_name(1), bytes(data))
    assert there.fsck(repair=True, region=False).unrepaired == ()
    return there


def test_sizes_follow_the_memory_before_anything_is_cut() -> None:
    there = salvaged()
    assert there.stored().inodes[there.g].size_bytes == BLOCK
    opened = Store.open(there.files, REGION)
    found = after_salvage.follow_the_memory(there.files, opened.state, opened.store, there.region)
    assert found == 1
    assert opened.state.inodes[there.g].size_bytes == 6 * BLOCK
    assert there.stored().inodes[there.g].size_bytes == 6 * BLOCK, "and it lasts"
    assert there.stored().inodes[there.f].pinned, "the record behind the damaged one"
    assert after_salvage.MARK not in there.files.names()
    assert there.fsck().clean


def test_only_the_daemon_after_a_repair_does_so() -> None:
    there = salvaged()
    opened = Store.open(there.files, REGION)
    after_salvage.follow_the_memory(there.files, opened.state, opened.store, there.region)
    there.region.plant(there.g, 2 * BLOCK, 2 * BLOCK)
    assert after_salvage.follow_the_memory(there.files, opened.state, opened.store, there.region) == 0
    assert opened.state.inodes[there.g].size_bytes == 6 * BLOCK


def test_a_repair_that_reached_the_memory_leaves_no_mark() -> None:
    there = Stopped()
    data = bytearray(there.files.read(journal.segment_name(1)))
    data[HEADER_BYTES + 20] ^= 0xFF
    there.files.put(journal.segment_name(1), bytes(data))
    there.fsck(repair=True)
    assert after_salvage.MARK not in there.files.names()
