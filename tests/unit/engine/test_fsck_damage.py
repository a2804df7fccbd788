"""Damage of every kind, everywhere: --repair never loses memory, and a killed one is finished by the next."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest

from guestmemfs_fuse.core.state import State
from guestmemfs_fuse.metadata.framing import FRAME_HEADER_BYTES, HEADER_BYTES
from tests.unit.engine.fakes import BLOCK
from tests.unit.engine.fsck_rig import Grown, Stopped, flip, lookup, segments
from tests.unit.metadata.memory_files import Crash, When, crash_at


@pytest.mark.parametrize("length", [1, 3, 40, 300])
def test_a_hole_of_any_length_anywhere_costs_only_what_was_in_it(length: int) -> None:
    """Every file has its data and its size; every name whose records are whole leads to it."""
    whole = Grown()
    contents = {name: whole.files.read(name) for name in whole.files.names()}
    named = 0
    for name, content in contents.items():
        for at in range(52, len(content), 7):
            there = Grown().with_files(contents)
            there.files.put(name, content[:at] + bytes(length) + content[at + length :])
            there.fsck(repair=True)
            assert there.fsck().clean, (name, at)
            state = there.stored()
            for ino, blocks in ((there.f, 2), (there.g, 1), (whole.late, 3)):
                assert state.inodes[ino].size_bytes == blocks * BLOCK == there.region.memory[ino], (name, at)
                assert state.inodes[ino].nlink, (name, at)
            named += lookup(state, b"late") == whole.late
    assert named > 20


def test_every_flipped_byte_is_found_and_repairing_never_loses_memory() -> None:
    """The promise of --repair over all single-byte damage: what has memory has a name afterwards."""
    whole = Grown()
    contents = {name: whole.files.read(name) for name in whole.files.names()}
    repaired = 0
    for name, content in contents.items():
        for at in range(0, len(content), 3):
            there = Grown().with_files(contents)
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
            for ino, blocks in ((there.f, 2), (there.g, 1), (whole.late, 3)):
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
    whole = Grown()
    files = {ino: whole.state.inodes[ino].size_bytes for ino in whole.region.sizes}
    contents = {name: whole.files.read(name) for name in whole.files.names()}
    tried = 0
    for name, content in contents.items():
        for damaged in disordered(content):
            if damaged == content:
                continue
            there = Grown().with_files(contents)
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
    there = Grown()
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
        there.files.fault = crash_at(number, when)
        with suppress(Crash):
            there.fsck(repair=True)
        crashes += there.files.dead
        there.files = there.files.reborn()
        assert there.fsck(repair=True).unrepaired == (), number
        state = there.stored()
        assert lookup(state, b"lost+found", b"#70") == 70
        assert state.inodes[there.late].size_bytes == 3 * BLOCK
        assert lookup(state, b"d", b"f") == there.f
    assert crashes
