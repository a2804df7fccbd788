"""fsck and the metadata files: torn, damaged, foreign, unknown, missing; what --repair falls back to."""

from __future__ import annotations

import stat
from uuid import UUID

import pytest

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.errors import CorruptMetadataError, MetadataError
from guestmemfs_fuse.core.records import Made
from guestmemfs_fuse.core.types import ROOT_INO
from guestmemfs_fuse.engine import fsck_metadata
from guestmemfs_fuse.metadata import journal, snapshot, store
from guestmemfs_fuse.metadata.store import Store
from tests.unit.engine.fakes import BLOCK
from tests.unit.engine.fsck_rig import REGION, Grown, Stopped, flip, lookup, segments
from tests.unit.metadata.memory_files import MemoryFiles


def kinds(there: Stopped) -> list[str]:
    return [finding.kind for finding in there.fsck().findings]


def test_a_torn_tail_is_reported_and_cut() -> None:
    there = Stopped()
    name = segments(there)[-1]
    whole = there.files.read(name)
    there.files.put(name, whole + b"\x13\x00\x00\x00half a frame")
    (finding,) = there.fsck().findings
    assert finding.kind == "torn-tail"
    assert name in finding.detail
    there.mended()
    assert there.files.read(name) == whole


def test_what_an_interrupted_writer_left_is_reported_and_removed() -> None:
    there = Stopped()
    there.files.put("snapshot-00000000000000aa.gms.77.tmp", b"half")
    assert kinds(there) == ["leftover-file"]
    there.mended()
    assert not any(name.endswith(".tmp") for name in there.files.names())


def test_damage_in_the_middle_is_named_and_only_repair_falls_back() -> None:
    there = Grown()
    second = segments(there)[1]
    flip(there.files, second, 70)
    before = {name: there.files.read(name) for name in there.files.names()}
    result = there.fsck()
    (finding,) = [each for each in result.findings if each.kind == "damaged-metadata"]
    assert second in finding.detail
    assert "would be lost" in result.notes[0]
    assert {name: there.files.read(name) for name in there.files.names()} == before
    with pytest.raises(CorruptMetadataError):
        Store.open(there.files, REGION)


def test_falling_back_keeps_the_memory_of_files_it_knows_nothing_of() -> None:
    there = Grown()
    flip(there.files, segments(there)[1], 70)
    result = there.fsck(repair=True)
    assert result.unrepaired == ()
    assert "lost are the transactions 8" in result.notes[1]
    assert "keeps the damaged files" in result.notes[-1]
    assert there.fsck().clean
    state = there.stored()
    assert lookup(state, b"d", b"f") == there.f
    assert lookup(state, b"lost+found", b"#%d" % there.late) == there.late
    assert state.inodes[there.late].size_bytes == there.region.memory[there.late] == 3 * BLOCK
    assert any(name.endswith(".damaged") for name in there.files.names()), "the evidence is kept"


def test_after_falling_back_sizes_follow_the_memory_that_is_there() -> None:
    there = Stopped()
    there.store.rotate()
    there.resize(there.g, 6 * BLOCK)
    there.store.rotate()
    there.make(b"later")
    flip(there.files, segments(there)[1], 70)
    there.mended()
    assert there.stored().inodes[there.g].size_bytes == 6 * BLOCK
    assert there.region.memory[there.g] == 6 * BLOCK


def test_after_falling_back_the_connection_is_not_resumed() -> None:
    there = Stopped()
    there.do(cmd.StartSession(b"init", 42))
    there.store.rotate()
    there.make(b"x")
    there.store.rotate()
    there.make(b"y")
    flip(there.files, segments(there)[1], 70)
    state = there.mended()
    assert state.session is None
    assert 42 in state.devices


def test_a_damaged_newer_snapshot_with_an_intact_older_chain_loses_nothing() -> None:
    there = Stopped()
    there.files.put(snapshot.snapshot_name(4), b"GUESTMEM rubbish")
    assert "damaged-snapshot" in kinds(there)
    state = there.mended()
    assert lookup(state, b"g") == there.g


def test_a_snapshot_that_is_damaged_and_alone_yields_what_is_whole_in_it() -> None:
    """Frames of other inodes stay readable; what is in the damaged one has its memory only."""
    there = Stopped()
    for number in range(80):
        there.resize(there.make(b"file-%02d" % number), BLOCK // 2)
    there.plant()
    (name,) = [name for name in there.files.names() if name.endswith(".gms")]
    damaged = bytearray(there.files.read(name))
    damaged[len(damaged) * 4 // 5] ^= 0xFF
    there.files.put(name, bytes(damaged))
    result = there.fsck(repair=True)
    assert result.unrepaired == ()
    assert there.fsck().clean
    assert any("inodes left" in note for note in result.notes)
    assert there.files.read(name + ".damaged") == bytes(damaged)
    state = there.stored()
    named = [number for number in range(80) if lookup(state, b"file-%02d" % number) is not None]
    assert len(named) == 80, "the root, which has the names, was in another frame"
    assert all(state.inodes[ino].size_bytes == size for ino, size in there.region.sizes.items())


def test_records_behind_a_damaged_one_are_not_lost() -> None:
    """One flipped byte in the middle of a segment costs one change, not all that came later."""
    there = Stopped()
    before, at = there.store.sequence, there.files.size_bytes(segments(there)[-1])
    lost = there.make(b"lost")
    there.resize(lost, 2 * BLOCK)
    kept = there.make(b"kept", parent=there.e)
    there.resize(kept, 5 * BLOCK)
    flip(there.files, segments(there)[-1], at + 30)
    result = there.fsck(repair=True)
    assert result.unrepaired == ()
    state = there.stored()
    assert lookup(state, b"e", b"kept") == kept
    assert state.inodes[kept].size_bytes == 5 * BLOCK
    assert lookup(state, b"lost+found", b"#%d" % lost) == lost
    assert state.inodes[lost].size_bytes == 2 * BLOCK
    assert f"lost are the transactions {before + 1}" in result.notes
    assert state.next_ino > kept + 1, "the lost record may have given out a number"


def test_without_any_snapshot_the_journal_is_enough_for_what_it_tells() -> None:
    there = Stopped()
    there.files.unlink(snapshot.snapshot_name(0))
    result = there.fsck(repair=True)
    assert result.unrepaired == ()
    assert any("no snapshot is left" in note for note in result.notes)
    state = there.mended() if not there.fsck().clean else there.stored()
    assert lookup(state, b"d", b"f") == there.f
    assert lookup(state, b"d", b"g2") == lookup(state, b"g") == there.g


def test_without_any_snapshot_memory_from_before_the_journal_gets_names() -> None:
    there = Stopped()
    there.plant()
    there.files.unlink(snapshot.snapshot_name(0))
    assert [each.kind for each in there.fsck(repair=True).unrepaired] == ["no-metadata"], (
        "nothing at all is left"
    )
    there = Grown()
    for first in journal.segments(there.files)[:1]:
        there.files.unlink(journal.segment_name(first))
    there.files.unlink(snapshot.snapshot_name(0))
    assert there.fsck(repair=True).unrepaired == ()
    state = there.stored()
    for ino in (there.f, there.g):
        assert lookup(state, b"lost+found", b"#%d" % ino) == ino
        assert state.inodes[ino].size_bytes == there.region.sizes[ino]
    assert lookup(state, b"late") == there.late


def test_a_file_whose_new_name_is_in_a_lost_record_is_no_orphan() -> None:
    """O_TMPFILE, then linkat: without the second it would look like a file to be removed."""
    there = Stopped()
    made = there.do(cmd.Make(ROOT_INO, b"", stat.S_IFREG | 0o600, 0, 0)).records[0]
    assert isinstance(made, Made)
    there.region.create(made.ino)
    there.resize(made.ino, BLOCK)
    at = there.files.size_bytes(segments(there)[-1])
    there.do(cmd.Link(made.ino, there.d, b"named"))
    there.make(b"later")
    flip(there.files, segments(there)[-1], at + 30)
    assert there.fsck(repair=True).unrepaired == ()
    assert lookup(there.stored(), b"lost+found", b"#%d" % made.ino) == made.ino
    assert there.region.memory[made.ino] == BLOCK


def test_a_name_that_was_given_again_behind_a_lost_record_loses_neither_file() -> None:
    there = Stopped()
    at = there.files.size_bytes(segments(there)[-1])
    there.do(cmd.Rename(ROOT_INO, b"g", there.e, b"moved"))
    again = there.make(b"g")
    there.resize(again, 4 * BLOCK)
    flip(there.files, segments(there)[-1], at + 30)
    assert there.fsck(repair=True).unrepaired == ()
    state = there.stored()
    assert lookup(state, b"g") == again
    assert lookup(state, b"d", b"g2") == there.g
    assert state.inodes[there.g].nlink == 1


@pytest.mark.parametrize(("at", "kind"), [(8, "unknown-format"), (20, "foreign-metadata")])
def test_headers_of_others_are_never_replaced(at: int, kind: str) -> None:
    there = Stopped()
    there.plant()
    (name,) = [name for name in there.files.names() if name.endswith(".gms")]
    data = bytearray(there.files.read(name))
    if kind == "foreign-metadata":
        other = Stopped()
        other.files = MemoryFiles()
        Store.create(other.files, UUID(int=5), other.state)
        data = bytearray(other.files.read(name))
    else:
        data[at] ^= 0xFF
    there.files.put(name, bytes(data))
    result = there.fsck(repair=True)
    assert [finding.kind for finding in result.unrepaired] == [kind]
    assert name in result.unrepaired[0].detail
    assert there.files.read(name) == bytes(data)


def test_no_metadata_over_memory_is_an_error_and_never_a_fresh_start() -> None:
    there = Stopped()
    for name in there.files.names():
        there.files.unlink(name)
    result = there.fsck(repair=True)
    assert [(finding.kind, finding.repaired) for finding in result.findings] == [("no-metadata", False)]
    assert there.files.names() == []


def test_no_metadata_and_no_memory_is_an_instance_that_never_began() -> None:
    there = Stopped()
    for name in there.files.names():
        there.files.unlink(name)
    there.region.sizes.clear()
    assert there.fsck().clean


def test_the_longest_beginning_ends_before_a_transaction_that_does_not_fit() -> None:
    """Checksums are right, but no program of ours would have written it: half of it must not stay applied."""
    from guestmemfs_fuse.core import records as rec
    from guestmemfs_fuse.core.records import Transaction

    there = Stopped()
    good = there.store.sequence
    misfit = Transaction((rec.Resized(there.f, 123, 0, 1), rec.Unlinked(ROOT_INO, b"not there", 1)))
    there.store.append(misfit)
    with pytest.raises(MetadataError):
        store.read_only_view(there.files, REGION)
    saved = fsck_metadata.save(there.files, REGION)
    assert saved is not None
    assert saved.sequence == good
    assert saved.state.inodes[there.f].size_bytes == 2 * BLOCK
