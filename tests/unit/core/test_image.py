"""The image of a state: whole round trips are the model's business; here is what must be refused."""

from __future__ import annotations

import stat
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core import image
from guestmemfs_fuse.core.check import problems
from guestmemfs_fuse.core.errors import CorruptMetadataError
from guestmemfs_fuse.core.types import ROOT_INO, BackingId, BlockNumber, Extent
from tests.unit.core.world import BLOCK_BYTES, BLOCKS, World, empty_state


def rich(*, extents: bool = True) -> World:
    """A state in which every field of the image is used."""
    world = World(empty_state(extents=extents))
    file = world.make(b"file", uid=1000)
    directory = world.mkdir(b"dir")
    world.make(b"link", parent=directory, kind=stat.S_IFLNK)
    world.do(cmd.Resize(file, 3 * BLOCK_BYTES))
    world.do(cmd.Allocate(file, 0, 4 * BLOCK_BYTES, keep_size=True))
    world.do(cmd.SetXattr(file, b"user.a", b"1"))
    world.do(cmd.Pin(file, True))
    world.do(cmd.Mark(file, b"vm"))
    world.do(cmd.StartSession(b"init", 3))
    world.do(cmd.StartSession(b"init", 4))
    world.do(cmd.OpenBacking(file, BackingId(2)))
    world.do(cmd.Quarantine((Extent(BlockNumber(9), 1),)))
    world.make(b"")
    return world


def items(*, extents: bool = True) -> list[image.Item]:
    return list(image.dump(rich(extents=extents).state))


def changed(item: image.Item, at: int, value: Any) -> image.Item:
    return (*item[:at], value, *item[at + 1 :])


@pytest.mark.parametrize("extents", [False, True])
def test_everything_comes_back(extents: bool) -> None:
    world = rich(extents=extents)
    again = image.load(image.dump(world.state))
    assert list(image.dump(again)) == list(image.dump(world.state))
    assert again.usage == world.state.usage
    assert list(problems(again)) == []


HEADER_FIELDS = 12
INODE_FIELDS = 18
WRONG: list[Any] = [None, -1, 1 << 70, b"x", "x", 1.5, True, (), ((),), (1,), ((1,),), ((1, 2, 3),), {}]


@pytest.mark.parametrize("at", range(HEADER_FIELDS))
@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_a_header_with_any_wrong_field_is_refused_or_loads(at: int, value: Any) -> None:
    header, *inodes = items()
    _load_or_refuse([changed(header, at, value), *inodes])


@pytest.mark.parametrize("at", range(INODE_FIELDS))
@pytest.mark.parametrize("value", WRONG, ids=repr)
def test_an_inode_with_any_wrong_field_is_refused_or_loads(at: int, value: Any) -> None:
    header, root, file, directory, *rest = items()
    _load_or_refuse([header, root, changed(file, at, value), directory, *rest])
    _load_or_refuse([header, root, file, changed(directory, at, value), *rest])


def _load_or_refuse(stream: list[image.Item]) -> None:
    """What loads can be checked and dumped."""
    try:
        state = image.load(stream)
    except CorruptMetadataError as error:
        assert "\n" not in error.message
        return
    list(problems(state))
    assert len(list(image.dump(state))) == len(stream)


@pytest.mark.parametrize(
    ("at", "value"),
    [
        (0, 0),
        (0, BLOCK_BYTES - 1),
        (1, 0),
        (2, 1),
        (3, (1,)),
        (3, (1, b"2")),
        (4, None),
        (5, 0),
        (7, ()),
        (7, (b"init",)),
        (7, ("init", 1)),
        (8, (b"1",)),
        (9, ((1, 2, 3),)),
        (9, (b"ab",)),
        (10, ((0, BLOCKS + 1),)),
        (10, ((-1, 1),)),
        (11, 3),
        (11, 99),
    ],
)
def test_headers_that_must_be_refused(at: int, value: Any) -> None:
    header, *inodes = items()
    with pytest.raises(CorruptMetadataError):
        image.load([changed(header, at, value), *inodes])


def test_too_few_too_many_and_doubled_items_are_refused() -> None:
    header, *inodes = items()
    wrong = (
        [],
        [header],
        [header, *inodes[:-1]],
        [header, *inodes, inodes[-1]],
        [header, *inodes[:-1], inodes[0]],
        [header, header, *inodes],
        [(), *inodes],
        [header, (), *inodes[1:]],
        [header, *[inode[:-1] for inode in inodes]],
        [header, *[(*inode, 1) for inode in inodes]],
        [5],
        [header, 5],
    )
    for stream in wrong:
        with pytest.raises(CorruptMetadataError):
            image.load(stream)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "directory",
    [
        (1,),
        (1, 9, 5),
        (1, 9, ((3, b"a", 2), (4, b"a", 2))),
        (1, 9, ((4, b"a", 2), (3, b"b", 2))),
        (1, 9, ((9, b"a", 2),)),
        (1, 9, ((3, "a", 2),)),
        (1, 9, ((3, b"a", -2),)),
        (1, 9, ((3, b"a", b"2"),)),
        (1, 9, ((b"3", b"a", 2),)),
        (b"1", 9, ()),
    ],
)
def test_directories_that_must_be_refused(directory: Any) -> None:
    header, root, *rest = items()
    with pytest.raises(CorruptMetadataError):
        image.load([header, changed(root, 17, directory), *rest])


@pytest.mark.parametrize("xattrs", [((b"user.a", b"1"), (b"user.a", b"2")), ((b"user.a",),), ((1, 2),), (5,)])
def test_attributes_that_must_be_refused(xattrs: Any) -> None:
    header, root, *rest = items()
    with pytest.raises(CorruptMetadataError):
        image.load([header, changed(root, 12, xattrs), *rest])


def test_blocks_claimed_twice_are_refused_by_inode_and_loaded_for_fsck() -> None:
    header, root, file, *rest = items()
    twice = [header, root, file, changed(rest[0], 16, ((2, 1),)), *rest[1:]]
    with pytest.raises(CorruptMetadataError, match=f"inode {rest[0][0]} claims blocks"):
        image.load(twice)
    found = {problem.kind for problem in problems(image.load(twice, lenient=True))}
    assert {"overlap", "leaked-blocks"} <= found


def test_blocks_outside_the_region_are_refused_and_loaded_for_fsck() -> None:
    header, root, file, *rest = items()
    outside = [header, root, changed(file, 16, ((0, 4), (BLOCKS, 2))), *rest]
    with pytest.raises(CorruptMetadataError, match=f"inode {file[0]} claims blocks"):
        image.load(outside)
    assert "outside-region" in {problem.kind for problem in problems(image.load(outside, lenient=True))}


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-10, 10) | st.integers() | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=6).map(tuple),
    max_leaves=12,
)


@settings(max_examples=300)
@given(st.lists(plain, max_size=4))
def test_any_values_are_an_image_or_refused(stream: list[Any]) -> None:
    _load_or_refuse(stream)


@settings(max_examples=300)
@given(st.data())
def test_an_image_with_any_value_replaced_is_loaded_or_refused(data: st.DataObject) -> None:
    stream = items(extents=data.draw(st.booleans()))
    which = data.draw(st.integers(0, len(stream) - 1))
    at = data.draw(st.integers(0, len(stream[which]) - 1))
    stream[which] = changed(stream[which], at, data.draw(plain))
    _load_or_refuse(stream)


def test_equal_numbers_are_one_object_after_loading() -> None:
    """Memory: 100,000 files of one size and owner."""
    world = World()
    for name in (b"a", b"b"):
        world.do(cmd.Resize(world.make(name, uid=70_000), 1 << 40))
    first, second = list(image.load(image.dump(world.state)).inodes.values())[1:]
    assert first.size_bytes is second.size_bytes
    assert first.uid is second.uid
    assert first.mode is second.mode
    assert ROOT_INO not in (first.ino, second.ino)
