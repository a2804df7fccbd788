"""A State as plain values and back: what a snapshot holds.

The image is a stream, so that a large state is neither built nor read in one piece: first one header,
then one item per inode. Items are tuples of numbers, bytes and tuples; field order is the on-disk format
(docs/format.md), fields are only ever appended and a missing tail means its default.

`load` trusts nothing: every field's type is checked (one look-up per inode), since a snapshot may have been
made by a program with a bug, or by nobody's program at all.

Called by metadata/snapshot and by tests.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import product
from types import NoneType
from typing import Any, Final

from guestmemfs_fuse.core.directory import Directory
from guestmemfs_fuse.core.errors import CorruptMetadataError
from guestmemfs_fuse.core.extents import FreeMap
from guestmemfs_fuse.core.state import Inode, Session, State
from guestmemfs_fuse.core.types import BlockNumber, Extent, Ino, Unique, UserLimits

Item = tuple[Any, ...]

MODE_MAX: Final = 0xFFFF_FFFF
_OPTIONAL_INT: Final = (int, NoneType)
_OPTIONAL_TUPLE: Final = (tuple, NoneType)
_HEADER_SHAPES: Final = frozenset(
    product(
        (int,),
        (int,),
        (bool,),
        (tuple,),
        (int,),
        (bool,),
        (int,),
        _OPTIONAL_TUPLE,
        *[(tuple,)] * 3,
        (int,),
    )
)
_INODE_SHAPES: Final = frozenset(
    product(
        *[(int,)] * 11,
        (bytes,),
        _OPTIONAL_TUPLE,
        (bool,),
        (bytes,),
        _OPTIONAL_INT,
        (tuple,),
        _OPTIONAL_TUPLE,
    )
)
"""The types of the fields in the order of `_dump_inode`, all that are accepted."""


def dump(state: State) -> Iterator[Item]:
    """The header, then every inode, by number."""
    session = state.session
    yield (
        state.region_bytes,
        state.block_bytes,
        state.free is not None,
        (state.limits.max_files, state.limits.max_xattr_bytes),
        state.next_ino,
        state.frozen,
        state.generation,
        None if session is None else (session.init_request, session.device),
        state.past_devices,
        tuple(state.recent.items()),
        _plain_extents(state.quarantined),
        len(state.inodes),
    )
    for ino in sorted(state.inodes):
        yield _dump_inode(state.inodes[ino])


def load(items: Iterable[Item], *, lenient: bool = False) -> State:
    """The State an image describes.

    lenient: load also what claims blocks twice (for fsck, which then says so).
    Raises CorruptMetadataError when the items do not describe one (too few, wrong types, an inode twice).
    """
    stream = iter(items)
    try:
        state, extents, inode_count = _load_header(next(stream))
        _load_inodes(stream, state)
        if len(state.inodes) != inode_count:
            raise CorruptMetadataError(f"the image has {len(state.inodes)} of {inode_count} inodes")
        if extents:
            state.free = _free_map(state, lenient=lenient)
    except (StopIteration, TypeError, ValueError, OverflowError) as error:
        raise CorruptMetadataError(f"the image does not describe an instance ({error})") from error
    return state


def load_what_is_whole(items: Iterable[Item], otherwise: State | None) -> tuple[State | None, int | None]:
    """What is left of an image that lost items, and how many inodes it had if that is known.

    otherwise: an empty state to put the inodes into when the header is lost. The state contradicts itself
    where something is missing; its free blocks are not counted.
    """
    state, expected, whole = otherwise, None, dict[Ino, Inode]()
    for item in items:
        with suppress(TypeError, ValueError, OverflowError, CorruptMetadataError):
            if expected is None and tuple(map(type, item)) in _HEADER_SHAPES:
                header, extents, expected = _load_header(item)
                header.free = FreeMap(header.region_bytes // header.block_bytes) if extents else None
                state = header
                continue
            alone = State(region_bytes=1, block_bytes=1)
            _load_inodes((item,), alone)
            whole.update(alone.inodes)
    if state is not None:
        state.inodes.update(whole)
        _count(state)
    return state, expected


def _load_header(header: Item) -> tuple[State, bool, int]:
    if tuple(map(type, header)) not in _HEADER_SHAPES:
        raise ValueError("the header's fields have wrong types")
    region_bytes, block_bytes, extents, limits, next_ino, frozen, generation, session = header[:8]
    past_devices, recent, quarantined, inode_count = header[8:12]
    if block_bytes <= 0 or region_bytes < block_bytes:
        raise ValueError("a region is at least one block")
    state = State(
        region_bytes=region_bytes,
        block_bytes=block_bytes,
        limits=UserLimits(*_numbers(limits, 2)),
        next_ino=Ino(next_ino),
        frozen=frozen,
        generation=generation,
        session=None if session is None else _load_session(session),
        past_devices=_numbers(past_devices),
        recent=OrderedDict((Unique(unique), Ino(ino)) for unique, ino in _pairs(recent)),
        quarantined=_extents(quarantined),
    )
    return state, extents, inode_count


def _load_session(item: Item) -> Session:
    init_request, device = item
    if type(init_request) is not bytes or type(device) is not int:
        raise ValueError("the session's fields have wrong types")
    return Session(init_request, device)


def _load_inodes(items: Iterable[Item], state: State) -> None:
    """Add every inode; the hot loop of a start. Equal numbers become one object: half the memory."""
    inodes, shapes = state.inodes, _INODE_SHAPES
    modes, same = dict[int, int](), dict[int, int]().setdefault
    for item in items:
        if tuple(map(type, item)) not in shapes:
            raise ValueError("an inode's fields have wrong types")
        inode = Inode(*item)
        ino, mode = inode.ino, inode.mode
        if ino in inodes:
            raise CorruptMetadataError(f"inode {ino} stands twice in the image")
        if mode not in modes:
            if not 0 <= mode <= MODE_MAX:
                raise ValueError(f"inode {ino} has mode {mode:#o}")
            modes[mode] = mode
        inode.mode = modes[mode]
        if inode.mtime_ns == inode.atime_ns:
            inode.mtime_ns = inode.atime_ns
        if inode.ctime_ns == inode.mtime_ns:
            inode.ctime_ns = inode.mtime_ns
        inode.size_bytes = same(inode.size_bytes, inode.size_bytes)
        if inode.xattrs is not None:
            inode.xattrs = _load_xattrs(item[12])
        if inode.extents:
            inode.extents = _extents(item[16])
        if inode.directory is not None:
            inode.directory = _load_directory(item[17])
        inodes[ino] = inode
    _count(state)


def _count(state: State) -> None:
    """What follows from the inodes: orphans, and who owns how much."""
    owned: dict[int, int] = {}
    for inode in state.inodes.values():
        owned[inode.uid] = owned.get(inode.uid, 0) + 1
        if inode.nlink == 0:
            state.orphans.add(inode.ino)
        if inode.xattrs is not None:
            state.user(inode.uid).xattr_bytes += inode.xattr_bytes
    for uid, files in owned.items():
        state.user(uid).files = files


def count_free_blocks(state: State) -> None:
    """Make `state.free` what the files leave free, also where they claim blocks twice. Raises ValueError."""
    if state.free is not None:
        state.free = _free_map(state, lenient=True)


def _free_map(state: State, *, lenient: bool) -> FreeMap:
    """What the files leave free; what is wrong with their blocks is left for core/check to say."""
    total_blocks = state.region_bytes // state.block_bytes
    for extent in state.quarantined:
        if extent.start < 0 or extent.end > total_blocks:
            raise ValueError(f"quarantined blocks up to {extent.end} of {total_blocks}")
    bad = [BlockNumber(block) for extent in state.quarantined for block in range(extent.start, extent.end)]
    used = (extent for inode in state.inodes.values() for extent in inode.extents)
    try:
        return FreeMap(total_blocks, used, bad)
    except ValueError:
        return _free_map_by_inode(state, FreeMap(total_blocks, quarantined=bad), lenient=lenient)


def _free_map_by_inode(state: State, free: FreeMap, *, lenient: bool) -> FreeMap:
    """The slow way, which can say whose blocks are wrong."""
    for inode in state.inodes.values():
        for extent in inode.extents:
            try:
                free.take((extent,))
            except ValueError as error:
                if not lenient:
                    raise CorruptMetadataError(
                        f"inode {inode.ino} claims blocks it cannot have ({error})",
                        hint="run guestmemfs fsck",
                    ) from error
    return free


def _dump_inode(inode: Inode) -> Item:
    directory = inode.directory
    return (
        inode.ino,
        inode.mode,
        inode.uid,
        inode.gid,
        inode.nlink,
        inode.atime_ns,
        inode.mtime_ns,
        inode.ctime_ns,
        inode.rdev,
        inode.size_bytes,
        inode.prealloc_bytes,
        inode.target,
        None if inode.xattrs is None else tuple(inode.xattrs.items()),
        inode.pinned,
        inode.mark,
        inode.backing_id,
        _plain_extents(inode.extents),
        None if directory is None else _dump_directory(directory),
    )


def _dump_directory(directory: Directory) -> Item:
    entries = tuple((cookie, name, ino) for cookie, name, ino in directory.after(0))
    return (directory.parent, directory.next_cookie, entries)


def _load_xattrs(items: Item) -> dict[bytes, bytes]:
    xattrs: dict[bytes, bytes] = {}
    for name, value in items:
        if type(name) is not bytes or type(value) is not bytes or name in xattrs:
            raise ValueError("an inode's extended attributes are no names and values")
        xattrs[name] = value
    return xattrs


def _load_directory(item: Item) -> Directory:
    parent, next_cookie, entries = item
    if type(parent) is not int or type(next_cookie) is not int:
        raise ValueError("a directory's fields have wrong types")
    directory = Directory(Ino(parent), next_cookie)
    directory.restore(entries)
    return directory


def _numbers(items: Item, count: int | None = None) -> tuple[int, ...]:
    if type(items) is not tuple or any(type(item) is not int for item in items):
        raise ValueError("numbers were expected")
    if count not in (None, len(items)):
        raise ValueError(f"{count} numbers were expected")
    return items


def _pairs(items: Item) -> Iterator[Item]:
    return (_numbers(item, 2) for item in items)


def _plain_extents(extents: tuple[Extent, ...]) -> Item:
    return tuple((extent.start, extent.count) for extent in extents)


def _extents(items: Item) -> tuple[Extent, ...]:
    if not items:
        return ()
    return tuple(Extent(BlockNumber(start), count) for start, count in _pairs(items))
