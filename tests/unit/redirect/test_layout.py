"""Which mappings a request becomes: every byte where it belongs, nothing else, and the kernel's refusals."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from guestmemfs_fuse.core.errors import DaemonError
from guestmemfs_fuse.redirect import arch
from guestmemfs_fuse.redirect.layout import Layout, MmapRequest, Plan, RefusedMappingError, Segment, plan

PAGE = 2 << 20
REGION = "/region"


def layout_of(*runs: tuple[int, int], page_bytes: int = PAGE) -> Layout:
    """A hugetlb file of runs (first page, count)."""
    segments = []
    at = 0
    for first, count in runs:
        segments.append(Segment(at, first * page_bytes, count * page_bytes))
        at += count * page_bytes
    return Layout("hugetlb", page_bytes, REGION, tuple(segments))


def request(
    offset_bytes: int = 0,
    length_bytes: int = PAGE,
    *,
    flags: int = arch.MAP_SHARED,
    prot: int = arch.PROT_READ | arch.PROT_WRITE,
    address: int = 0,
) -> MmapRequest:
    return MmapRequest(address, length_bytes, prot, flags, 5, offset_bytes)


def planned(asked: MmapRequest, layout: Layout, *, share: bool = True, writable: bool = True) -> Plan:
    return plan(asked, layout, share=share, fd_is_writable=writable)


def refusal(asked: MmapRequest, layout: Layout) -> int:
    with pytest.raises(RefusedMappingError) as caught:
        planned(asked, layout)
    return caught.value.errno


# -- extents -------------------------------------------------------------------------------------------


def test_one_run_is_one_call_with_the_programs_own_flags_and_offset_in_the_region() -> None:
    done = planned(request(PAGE, 2 * PAGE, flags=arch.MAP_SHARED | arch.MAP_NORESERVE), layout_of((7, 4)))
    assert (done.region_path, done.reserve_bytes) == (REGION, 0)
    (piece,) = done.pieces
    assert (piece.delta_bytes, piece.length_bytes, piece.offset_bytes) == (0, 2 * PAGE, 8 * PAGE)
    assert piece.flags == arch.MAP_SHARED | arch.MAP_NORESERVE


def test_several_runs_reserve_a_range_that_shows_nothing_and_are_put_over_it() -> None:
    done = planned(request(0, 3 * PAGE), layout_of((7, 2), (1, 1)))
    assert done.reserve_bytes == 3 * PAGE
    assert done.reserve_flags == arch.MAP_PRIVATE | arch.MAP_NORESERVE
    assert [piece.flags for piece in done.pieces] == [arch.MAP_SHARED | arch.MAP_FIXED] * 2


def test_map_fixed_needs_no_reservation() -> None:
    done = planned(request(0, 3 * PAGE, flags=arch.MAP_SHARED | arch.MAP_FIXED), layout_of((7, 2), (1, 1)))
    assert done.reserve_bytes == 0
    assert all(piece.flags & arch.MAP_FIXED for piece in done.pieces)


def test_fixed_noreplace_is_the_reservations_business_and_its_pieces_may_replace_it() -> None:
    flags = arch.MAP_SHARED | arch.MAP_FIXED_NOREPLACE
    done = planned(request(0, 3 * PAGE, flags=flags, address=PAGE), layout_of((7, 2), (1, 1)))
    assert done.reserve_flags & arch.MAP_FIXED_NOREPLACE
    assert {piece.flags for piece in done.pieces} == {arch.MAP_SHARED | arch.MAP_FIXED}


def test_regression_both_fixed_flags_replace_nothing() -> None:
    flags = arch.MAP_SHARED | arch.MAP_FIXED | arch.MAP_FIXED_NOREPLACE
    done = planned(request(0, 3 * PAGE, flags=flags), layout_of((7, 2), (1, 1)))
    assert done.reserve_bytes == 3 * PAGE
    assert done.reserve_flags & arch.MAP_FIXED_NOREPLACE


def test_regression_a_scattered_file_is_mapped_below_4g_where_that_is_asked_for() -> None:
    flags = arch.MAP_SHARED | arch.MAP_32BIT
    assert (
        planned(request(0, 3 * PAGE, flags=flags), layout_of((7, 2), (1, 1))).reserve_flags & arch.MAP_32BIT
    )


@st.composite
def files(draw: st.DrawFn) -> Layout:
    """A file whose extents are disjoint runs of a region, in any order."""
    counts = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    gaps = draw(st.lists(st.integers(0, 2), min_size=len(counts), max_size=len(counts)))
    runs = []
    at = 0
    for count, gap in zip(counts, gaps, strict=True):
        at += gap
        runs.append((at, count))
        at += count
    return layout_of(*draw(st.permutations(runs)), page_bytes=draw(st.sampled_from([PAGE, 1 << 30])))


@given(files(), st.data())
def test_every_page_is_where_it_belongs_and_no_other_page_is_mapped(
    layout: Layout, data: st.DataObject
) -> None:
    unit = layout.page_bytes
    pages = [
        segment.region_offset_bytes + at
        for segment in layout.segments
        for at in range(0, segment.length_bytes, unit)
    ]
    first = data.draw(st.integers(0, len(pages) - 1))
    count = data.draw(st.integers(1, len(pages) - first))
    short_bytes = data.draw(st.integers(0, unit - 1))
    done = planned(request(first * unit, count * unit - short_bytes), layout)
    mapped: dict[int, int] = {}
    for piece in done.pieces:
        for at in range(0, piece.length_bytes, unit):
            assert piece.delta_bytes + at not in mapped
            mapped[piece.delta_bytes + at] = piece.offset_bytes + at
    assert mapped == {at * unit: pages[first + at] for at in range(count)}
    assert done.length_bytes == count * unit
    assert len(done.pieces) == 1 or done.reserve_bytes == done.length_bytes
    neighbours = zip(done.pieces, done.pieces[1:], strict=False)
    assert all(one.offset_bytes + one.length_bytes != two.offset_bytes for one, two in neighbours)


@pytest.mark.parametrize(
    "asked",
    [
        request(PAGE // 2),
        request(4096),
        request(0, 0),
        request(0, 4 * PAGE),
        request(3 * PAGE, PAGE),
        request(2 * PAGE, PAGE + 1),
        request(1 << 62, PAGE),
        request(0, 1 << 63),
        request(flags=arch.MAP_SHARED | arch.MAP_FIXED, address=4096),
        request(flags=arch.MAP_SHARED | arch.MAP_FIXED_NOREPLACE, address=4096),
    ],
)
def test_what_is_not_whole_pages_of_the_file_is_einval(asked: MmapRequest) -> None:
    assert refusal(asked, layout_of((7, 2), (1, 1))) == errno.EINVAL


def test_a_hole_between_the_extents_is_einval() -> None:
    holey = Layout("hugetlb", PAGE, REGION, (Segment(0, 0, PAGE), Segment(2 * PAGE, PAGE, PAGE)))
    assert refusal(request(0, 3 * PAGE), holey) == errno.EINVAL
    assert planned(request(2 * PAGE, PAGE), holey).pieces[0].offset_bytes == PAGE


def test_an_empty_file_has_nothing_to_map() -> None:
    assert refusal(request(), layout_of()) == errno.EINVAL


# -- private and shared --------------------------------------------------------------------------------


def flags_after(asked: MmapRequest, layout: Layout, *, share: bool = True, writable: bool = True) -> int:
    (piece,) = planned(asked, layout, share=share, writable=writable).pieces
    return piece.flags


PRIVATE = request(flags=arch.MAP_PRIVATE | arch.MAP_NORESERVE)
KINDS = [layout_of((0, 1)), Layout("tmpfs", PAGE, None), Layout("tmpfs", PAGE, "/backing")]


@pytest.mark.parametrize("layout", KINDS, ids=["hugetlb", "passthrough", "backing-file"])
def test_a_private_writable_mapping_becomes_shared_on_every_kind(layout: Layout) -> None:
    assert flags_after(PRIVATE, layout) == arch.MAP_SHARED | arch.MAP_NORESERVE


@pytest.mark.parametrize("layout", KINDS, ids=["hugetlb", "passthrough", "backing-file"])
def test_it_stays_private_when_told_so_or_when_the_file_was_opened_for_reading(layout: Layout) -> None:
    assert flags_after(PRIVATE, layout, share=False) == PRIVATE.flags
    assert flags_after(PRIVATE, layout, writable=False) == PRIVATE.flags


def test_reading_privately_reserves_no_huge_pages() -> None:
    reading = request(flags=arch.MAP_PRIVATE, prot=arch.PROT_READ)
    assert flags_after(reading, KINDS[0]) == arch.MAP_PRIVATE | arch.MAP_NORESERVE
    assert flags_after(reading, KINDS[1]) == arch.MAP_PRIVATE


def test_shared_flags_are_never_touched() -> None:
    for flags in (arch.MAP_SHARED, 0x03, arch.MAP_SHARED | 0x8000 | 0x2000):
        assert flags_after(request(flags=flags), KINDS[0]) == flags


# -- files with a backing file of their own --------------------------------------------------------------


@pytest.mark.parametrize("path", [None, "/backing"])
def test_a_backing_file_is_mapped_exactly_as_asked(path: str | None) -> None:
    asked = request(4096, 12345, address=4096, flags=arch.MAP_SHARED | arch.MAP_FIXED)
    done = planned(asked, Layout("tmpfs", PAGE, path, ()))
    (piece,) = done.pieces
    assert (done.region_path, piece.length_bytes, piece.offset_bytes) == (path, 12345, 4096)
    assert piece.flags == asked.flags


# -- the daemon's answer -------------------------------------------------------------------------------

REPLY: dict[str, Any] = {
    "kind": "hugetlb",
    "page_bytes": PAGE,
    "passthrough": False,
    "path": REGION,
    "size_bytes": 3 * PAGE,
    "segments": [[0, 7 * PAGE, 2 * PAGE], [2 * PAGE, PAGE, PAGE]],
}


def test_the_daemons_answer_is_read() -> None:
    assert Layout.from_reply(REPLY) == layout_of((7, 2), (1, 1))
    assert Layout.from_reply({**REPLY, "kind": "tmpfs"}) == Layout("tmpfs", PAGE, REGION)
    assert Layout.from_reply({**REPLY, "kind": "tmpfs", "passthrough": True}) == Layout("tmpfs", PAGE, None)


@pytest.mark.parametrize(
    "broken", [{"kind": 0}, {"segments": [[1, 2]]}, {"segments": 5}, {"page_bytes": "x"}]
)
def test_an_answer_that_makes_no_sense_is_an_error_of_the_daemon(broken: dict[str, Any]) -> None:
    reply = {**REPLY, **broken}
    if "kind" in broken:
        del reply["kind"]
    with pytest.raises(DaemonError):
        Layout.from_reply(reply)
