"""Frames: what a reader makes of every truncation, every flipped byte, and frames out of order."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guestmemfs_fuse.core.errors import (
    CorruptMetadataError,
    ForeignMetadataError,
    MetadataError,
    UnknownFormatError,
)
from guestmemfs_fuse.metadata import framing
from guestmemfs_fuse.metadata.framing import Clean, FileHeader, FileKind, FrameReader, TornTail
from tests.unit.metadata.workload import OTHER_REGION, REGION

BASE = 7
payload_lists = st.lists(st.binary(min_size=1, max_size=60), max_size=6)


def file_of(payloads: list[bytes], *, base: int = BASE, salt: int = 99) -> bytes:
    header = framing.pack_header(FileHeader(FileKind.JOURNAL, REGION, base, salt))
    seed = framing.seed_of(header)
    return header + b"".join(
        framing.pack_frame(seed, base + at, payload) for at, payload in enumerate(payloads)
    )


def frames_of(payloads: list[bytes]) -> list[bytes]:
    """The packed frames, one by one."""
    ends = [len(file_of(payloads[:count])) for count in range(len(payloads) + 1)]
    data = file_of(payloads)
    return [data[start:end] for start, end in pairwise(ends)]


def read(data: bytes, base: int = BASE) -> tuple[list[bytes], FrameReader]:
    reader = FrameReader(data, base, "the file")
    return [bytes(payload) for _, payload in reader], reader


# -- headers -----------------------------------------------------------------------------------------


@given(st.sampled_from(FileKind), st.uuids(), st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1))
def test_a_header_comes_back(kind: FileKind, region: object, base: int, salt: int) -> None:
    header = FileHeader(kind, region, base, salt)  # type: ignore[arg-type]
    packed = framing.pack_header(header)
    assert len(packed) == framing.HEADER_BYTES
    assert framing.unpack_header(packed, "f", kind, header.region_uuid) == header


@pytest.mark.parametrize("length", range(framing.HEADER_BYTES))
def test_a_header_that_is_cut_short_is_refused(length: int) -> None:
    with pytest.raises(CorruptMetadataError, match="the file"):
        framing.unpack_header(file_of([])[:length], "the file", FileKind.JOURNAL, REGION)


@pytest.mark.parametrize("at", range(framing.HEADER_BYTES))
@pytest.mark.parametrize("bits", [0x01, 0x80, 0xFF])
def test_a_header_with_a_flipped_byte_is_refused_and_the_file_named(at: int, bits: int) -> None:
    data = bytearray(file_of([]))
    data[at] ^= bits
    with pytest.raises(MetadataError, match="the file") as refusal:
        framing.unpack_header(bytes(data), "the file", FileKind.JOURNAL, REGION)
    assert isinstance(refusal.value, UnknownFormatError) == (8 <= at < 12)


def test_an_unknown_version_is_refused_before_anything_behind_it_is_believed() -> None:
    data = b"GUESTMEM" + (2).to_bytes(4, "little") + b"a layout of its own".ljust(60)
    with pytest.raises(UnknownFormatError, match="format version 2, this program reads 1"):
        framing.unpack_header(data, "the file", FileKind.JOURNAL, REGION)


def test_another_region_and_another_kind_are_refused() -> None:
    with pytest.raises(ForeignMetadataError, match=str(REGION)):
        framing.unpack_header(file_of([]), "the file", FileKind.JOURNAL, OTHER_REGION)
    with pytest.raises(CorruptMetadataError, match="not a snapshot"):
        framing.unpack_header(file_of([]), "the file", FileKind.SNAPSHOT, REGION)


# -- frames ------------------------------------------------------------------------------------------


@given(payload_lists)
def test_frames_come_back_in_order(payloads: list[bytes]) -> None:
    data = file_of(payloads)
    got, reader = read(data)
    assert got == payloads
    assert (reader.ending, reader.end, reader.next_sequence) == (Clean(), len(data), BASE + len(payloads))


@given(payload_lists, st.data())
def test_every_truncation_is_a_torn_tail_or_clean_and_keeps_the_whole_frames(
    payloads: list[bytes], data: st.DataObject
) -> None:
    whole = file_of(payloads)
    length = data.draw(st.integers(framing.HEADER_BYTES, len(whole)))
    got, reader = read(whole[:length])
    ends = [len(file_of(payloads[:count])) for count in range(len(payloads) + 1)]
    kept = sum(1 for end in ends[1:] if end <= length)
    assert got == payloads[:kept]
    assert reader.end == ends[kept]
    if length == ends[kept]:
        assert reader.ending == Clean()
    else:
        assert isinstance(reader.ending, TornTail)
        assert reader.ending.at == ends[kept]


def test_every_flipped_byte_is_noticed_and_only_the_last_frame_can_be_taken_for_torn() -> None:
    payloads = [b"first", b"second frame", b"third", b"the last"]
    whole = file_of(payloads)
    last_start = len(file_of(payloads[:-1]))
    for at in range(framing.HEADER_BYTES, len(whole)):
        for bits in (0x01, 0x80, 0xFF):
            data = bytearray(whole)
            data[at] ^= bits
            if at >= last_start:
                got, reader = read(bytes(data))
                assert got == payloads[:-1]
                assert isinstance(reader.ending, TornTail)
            else:
                with pytest.raises(CorruptMetadataError, match="the file"):
                    read(bytes(data))


@given(payload_lists.filter(lambda payloads: len(payloads) > 1), st.data())
def test_frames_out_of_order_twice_or_missing_are_damage(payloads: list[bytes], data: st.DataObject) -> None:
    frames = frames_of(payloads)
    at = data.draw(st.integers(0, len(frames) - 2))
    other = data.draw(st.integers(at + 1, len(frames) - 1))
    swapped = list(frames)
    swapped[at], swapped[other] = swapped[other], swapped[at]
    for wrong in (swapped, [*frames[:other], frames[at], *frames[other:]], frames[:at] + frames[at + 1 :]):
        with pytest.raises(CorruptMetadataError):
            read(file_of([]) + b"".join(wrong))


def test_a_frame_of_another_file_with_the_right_number_is_damage() -> None:
    """Its checksum began from another salt."""
    other = file_of([b"x", b"y"], salt=100)[framing.HEADER_BYTES :]
    _, reader = read(file_of([]) + other)
    assert isinstance(reader.ending, TornTail)
    assert framing.seed_of(file_of([])) != framing.seed_of(file_of([], salt=100))


def test_what_a_user_wrote_into_a_torn_frame_never_looks_like_a_frame() -> None:
    """A frame forged for a file with another salt, inside an attribute whose write was interrupted."""
    forged = framing.pack_frame(framing.seed_of(file_of([], salt=1)), BASE + 1, b"forged")
    whole = file_of([b"value " + forged * 50])
    got, reader = read(whole[:-1])
    assert got == []
    assert reader.ending == TornTail(framing.HEADER_BYTES, "the frame is cut short")


@pytest.mark.parametrize("tail", [b"\0", b"\0" * 500, b"\xff" * 500, bytes(range(256)) * 4])
def test_rubbish_behind_the_last_frame_is_a_torn_tail(tail: bytes) -> None:
    whole = file_of([b"one", b"two"])
    got, reader = read(whole + tail)
    assert got == [b"one", b"two"]
    assert isinstance(reader.ending, TornTail)
    assert reader.ending.at == len(whole)


def test_a_valid_frame_behind_rubbish_is_found_wherever_it_stands() -> None:
    frames = frames_of([b"one", b"two", b"three"])
    for gap in range(1, 40):
        with pytest.raises(CorruptMetadataError, match=f"valid records follow at byte {52 + 19 + gap}"):
            read(file_of([]) + frames[0] + b"\xaa" * gap + frames[2])


def test_searching_behind_a_torn_frame_takes_bounded_work() -> None:
    """Bytes that look like plausible frame headers at every place must not cost quadratic time."""
    header = framing._FRAME.pack(4000, 0, BASE)
    checked_bytes = 0

    def counted(data: memoryview, at: int, seed: int) -> str | None:
        nonlocal checked_bytes
        checked_bytes += framing._FRAME.unpack_from(data, at)[0]
        return "wrong"

    data = memoryview(header * 20_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(framing, "_defect", counted)
        patch.setattr(framing, "_SEARCH_FLOOR_BYTES", 0)
        assert framing._search(data, 1, 0, BASE) is not None
    assert checked_bytes <= framing._SEARCH_FACTOR * len(data) + 4000


@settings(max_examples=300)
@given(st.binary(max_size=400), st.integers(0, 1 << 64))
def test_any_bytes_end_or_are_refused_but_nothing_else_happens(tail: bytes, base: int) -> None:
    try:
        read(file_of([]) + tail, base)
    except MetadataError:
        pass


def test_any_mutation_of_a_real_file_gives_a_prefix_or_a_refusal() -> None:
    payloads = [b"payload %d" % number for number in range(8)]
    whole, dice = file_of(payloads), random.Random(5)
    for _ in range(3000):
        data = bytearray(whole)
        for _ in range(dice.randrange(1, 4)):
            at = dice.randrange(framing.HEADER_BYTES, len(data) + 1)
            match dice.randrange(4):
                case 0:
                    data[at:at] = dice.randbytes(dice.randrange(1, 20))
                case 1:
                    del data[at : at + dice.randrange(1, 20)]
                case 2:
                    start = dice.randrange(framing.HEADER_BYTES, len(data) + 1)
                    data[at:at] = data[start : start + 60]
                case _:
                    data[at : at + 3] = dice.randbytes(3)
        try:
            got, _ = read(bytes(data))
        except MetadataError:
            continue
        assert got == payloads[: len(got)]
