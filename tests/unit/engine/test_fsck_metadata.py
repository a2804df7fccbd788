"""fsck and the metadata files: torn, damaged, foreign, unknown, missing; what --repair falls back to."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import suppress
from uuid import UUID

import pytest

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.errors import CorruptMetadataError, MetadataError
from guestmemfs_fuse.core.records import Made
from guestmemfs_fuse.core.state import State
from guestmemfs_fuse.core.types import ROOT_INO, Ino
from guestmemfs_fuse.engine import fsck_metadata
from guestmemfs_fuse.metadata import journal, snapshot, store
from guestmemfs_fuse.metadata.framing import FRAME_HEADER_BYTES, HEADER_BYTES
from guestmemfs_fuse.metadata.store import Store
from tests.unit.engine.fakes import BLOCK
from tests.unit.engine.fsck_rig import REGION, Stopped, lookup
from tests.unit.metadata.memory_files import Crash, MemoryFiles, When, crash_at


def segments(there: Stopped) -> list[str]:
    return [journal.segment_name(first) for first in journal.segments(there.files)]


def flip(files: MemoryFiles, name: str, at: int) -> None:
    data = bytearray(files.read(name))
    data[at] ^= 0xFF
    files.put(name, bytes(data))


def grown() -> Stopped:
    """Several segments: /late is in the second one, /last in the third."""
    there = Stopped()
    there.store.rotate()
    there.late = there.make(b"late")  # type: ignore[attr-defined]
    there.resize(there.late, 3 * BLOCK)  # type: ignore[attr-defined]
    there.store.rotate()
    there.make(b"last")
    return there


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
    there = grown()
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
    there = grown()
    late: Ino = there.late  # type: ignore[attr-defined]
    flip(there.files, segments(there)[1], 70)
    result = there.fsck(repair=True)
    assert result.unrepaired == ()
    assert "lost are the transactions 8" in result.notes[1]
    assert "keeps the damaged files" in result.notes[-1]
    assert there.fsck().clean
    state = there.stored()
    assert lookup(state, b"d", b"f") == there.f
    assert lookup(state, b"lost+found", b"#%d" % late) == late
    assert state.inodes[late].size_bytes == there.region.memory[late] == 3 * BLOCK
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
    there = grown()
    for first in journal.segments(there.files)[:1]:
        there.files.unlink(journal.segment_name(first))
    there.files.unlink(snapshot.snapshot_name(0))
    assert there.fsck(repair=True).unrepaired == ()
    state = there.stored()
    for ino in (there.f, there.g):
        assert lookup(state, b"lost+found", b"#%d" % ino) == ino
        assert state.inodes[ino].size_bytes == there.region.sizes[ino]
    assert lookup(state, b"late") == there.late  # type: ignore[attr-defined]


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


@pytest.mark.parametrize("length", [1, 3, 40, 300])
def test_a_hole_of_any_length_anywhere_costs_only_what_was_in_it(length: int) -> None:
    """Every file has its data and its size; every name whose records are whole leads to it."""
    whole = grown()
    late: Ino = whole.late  # type: ignore[attr-defined]
    contents = {name: whole.files.read(name) for name in whole.files.names()}
    named = 0
    for name, content in contents.items():
        for at in range(52, len(content), 7):
            there = grown()
            for each, data in contents.items():
                there.files.put(each, data)
            there.files.put(name, content[:at] + bytes(length) + content[at + length :])
            there.fsck(repair=True)
            assert there.fsck().clean, (name, at)
            state = there.stored()
            for ino, blocks in ((there.f, 2), (there.g, 1), (late, 3)):
                assert state.inodes[ino].size_bytes == blocks * BLOCK == there.region.memory[ino], (name, at)
                assert state.inodes[ino].nlink, (name, at)
            named += lookup(state, b"late") == late
    assert named > 20


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


def test_every_flipped_byte_is_found_and_repairing_never_loses_memory() -> None:
    """The promise of --repair over all single-byte damage: what has memory has a name afterwards."""
    whole = grown()
    late: Ino = whole.late  # type: ignore[attr-defined]
    contents = {name: whole.files.read(name) for name in whole.files.names()}
    repaired = 0
    for name, content in contents.items():
        for at in range(0, len(content), 3):
            there = grown()
            for each, data in contents.items():
                there.files.put(each, data)
            flip(there.files, name, at)
            result = there.fsck(repair=True)
            assert not result.clean, (name, at)
            if 8 <= at < 12:
                assert [each.kind for each in result.unrepaired] == ["unknown-format"]
                continue
            assert result.unrepaired == (), (name, at, result)
            assert there.fsck().clean, (name, at)
            repaired += 1
            state = there.stored()
            for ino, blocks in ((there.f, 2), (there.g, 1), (late, 3)):
                assert there.region.memory[ino] == blocks * BLOCK, (name, at)
                assert state.inodes[ino].size_bytes == blocks * BLOCK, (name, at)
                assert state.inodes[ino].nlink, (name, at)
            if at < HEADER_BYTES:
                assert image_of(state) == image_of(whole.state), "a header costs nothing"
    assert repaired > 100


def frames_of(data: bytes) -> list[bytes]:
    """The frames of a file, each with its header."""
    pieces, at = [], HEADER_BYTES
    while at < len(data):
        end = at + FRAME_HEADER_BYTES + int.from_bytes(data[at : at + 4], "little")
        pieces.append(data[at:end])
        at = end
    return pieces


def disordered(data: bytes) -> Iterator[bytes]:
    """Every frame missing, twice, and in its neighbour's place; the file cut in every frame, and empty."""
    header, frames = data[:HEADER_BYTES], frames_of(data)
    yield b""
    yield header[:30]
    for at, frame in enumerate(frames):
        before, behind = frames[:at], frames[at + 1 :]
        yield header + b"".join([*before, *behind])
        yield header + b"".join([*before, frame, frame, *behind])
        yield header + b"".join([*before, *behind[:1], frame, *behind[1:]])
        yield header + b"".join(before) + frame[: len(frame) // 2]


def test_disorder_of_every_kind_is_repaired_without_losing_memory() -> None:
    whole = grown()
    files = {ino: whole.state.inodes[ino].size_bytes for ino in whole.region.sizes}
    contents = {name: whole.files.read(name) for name in whole.files.names()}
    tried = 0
    for name, content in contents.items():
        for damaged in disordered(content):
            if damaged == content:
                continue
            there = grown()
            for each, data in contents.items():
                there.files.put(each, data)
            there.files.put(name, damaged)
            there.fsck(repair=True)
            assert there.fsck().clean, (name, damaged)
            state = there.stored()
            tried += 1
            for ino, size_bytes in files.items():
                if size_bytes:
                    assert there.region.memory[ino] == size_bytes, (name, damaged, ino)
                    assert state.inodes[ino].size_bytes == size_bytes, (name, damaged, ino)
                    assert state.inodes[ino].nlink, (name, damaged, ino)
    assert tried > 30


def image_of(state: State) -> list[object]:
    """Names and what they lead to."""
    return [
        (ino, inode.mode, inode.nlink, inode.size_bytes, sorted(inode.directory.items()))
        if inode.directory is not None
        else (ino, inode.mode, inode.nlink, inode.size_bytes)
        for ino, inode in sorted(state.inodes.items())
    ]


def needing_repair(*, damaged: bool) -> Stopped:
    there = grown()
    there.region.plant(70, BLOCK, BLOCK)
    if damaged:
        flip(there.files, segments(there)[1], 70)
    there.files.steps = 0
    return there


@pytest.mark.parametrize("damaged", [False, True])
@pytest.mark.parametrize("when", When)
def test_killed_at_any_step_of_a_repair_another_run_finishes_it(when: When, damaged: bool) -> None:
    undisturbed = needing_repair(damaged=damaged)
    undisturbed.fsck(repair=True)
    assert undisturbed.files.steps > 5
    crashes = 0
    for number in range(1, undisturbed.files.steps + 1):
        there = needing_repair(damaged=damaged)
        late: Ino = there.late  # type: ignore[attr-defined]
        there.files.fault = crash_at(number, when)
        with suppress(Crash):
            there.fsck(repair=True)
        crashes += there.files.dead
        there.files = there.files.reborn()
        assert there.fsck(repair=True).unrepaired == (), number
        state = there.stored()
        assert lookup(state, b"lost+found", b"#70") == 70
        assert state.inodes[late].size_bytes == 3 * BLOCK
        assert lookup(state, b"d", b"f") == there.f
    assert crashes


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
