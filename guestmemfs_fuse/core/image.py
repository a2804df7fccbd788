"""A State as plain values and back: what a snapshot holds.

The image is a stream, so that a large state is neither built nor read in one piece: first one header,
then one item per inode. Items are lists of numbers, bytes and lists; field order is the on-disk format
(docs/format.md), fields are only ever appended and a missing tail means its default.

Called by metadata/snapshot and by tests.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Iterator
from typing import Any

from guestmemfs_fuse.core.errors import CorruptMetadataError
from guestmemfs_fuse.core.extents import FreeMap
from guestmemfs_fuse.core.state import Directory, Inode, Session, State
from guestmemfs_fuse.core.types import BackingId, BlockNumber, Cookie, Extent, Ino, Unique, UserLimits


def dump(state: State) -> Iterator[list[Any]]:
    """The header, then every inode, by number."""
    session = state.session
    yield [
        state.region_bytes,
        state.block_bytes,
        state.free is not None,
        [state.limits.max_files, state.limits.max_xattr_bytes],
        state.next_ino,
        state.frozen,
        state.generation,
        None if session is None else [session.init_request, session.device],
        list(state.past_devices),
        [[unique, ino] for unique, ino in state.recent.items()],
        _plain_extents(state.quarantined),
        len(state.inodes),
    ]
    for ino in sorted(state.inodes):
        yield _dump_inode(state.inodes[ino])


def load(items: Iterable[list[Any]], *, lenient: bool = False) -> State:
    """The State an image describes.

    lenient: load also what claims blocks twice (for fsck, which then says so).
    Raises CorruptMetadataError when the items do not describe one (too few, wrong types, an inode twice).
    """
    stream = iter(items)
    try:
        state, inode_count = _load_header(next(stream))
        for item in stream:
            inode = _load_inode(item)
            if inode.ino in state.inodes:
                raise CorruptMetadataError(f"inode {inode.ino} stands twice in the image")
            _add(state, inode)
        if len(state.inodes) != inode_count:
            raise CorruptMetadataError(f"the image has {len(state.inodes)} of {inode_count} inodes")
        if state.free is not None:
            _mark_used(state, state.free, lenient=lenient)
    except (StopIteration, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        raise CorruptMetadataError(f"the image does not describe an instance ({error})") from error
    return state


def _load_header(header: list[Any]) -> tuple[State, int]:
    region_bytes, block_bytes, extents, limits, next_ino, frozen, generation, session = header[:8]
    past_devices, recent, quarantined, inode_count = header[8:12]
    state = State(
        region_bytes=int(region_bytes),
        block_bytes=int(block_bytes),
        limits=UserLimits(*limits),
        next_ino=Ino(next_ino),
        frozen=bool(frozen),
        generation=int(generation),
        session=None if session is None else Session(bytes(session[0]), int(session[1])),
        past_devices=tuple(past_devices),
        recent=OrderedDict((Unique(unique), Ino(ino)) for unique, ino in recent),
        quarantined=_extents(quarantined),
    )
    if state.block_bytes <= 0 or state.region_bytes <= 0:
        raise ValueError("sizes must be positive")
    if extents:
        state.free = FreeMap(state.region_bytes // state.block_bytes)
    return state, int(inode_count)


def _add(state: State, inode: Inode) -> None:
    state.inodes[inode.ino] = inode
    if inode.nlink == 0:
        state.orphans.add(inode.ino)
    owner = state.user(inode.uid)
    owner.files += 1
    owner.xattr_bytes += inode.xattr_bytes


def _mark_used(state: State, free: FreeMap, *, lenient: bool) -> None:
    """Take the files' blocks out of the free ones; what is wrong with them is left for core/check to say."""
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
    for extent in state.quarantined:
        for block in range(extent.start, extent.end):
            free.quarantine(BlockNumber(block))


def _dump_inode(inode: Inode) -> list[Any]:
    directory = inode.directory
    return [
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
        None if inode.xattrs is None else [[name, value] for name, value in inode.xattrs.items()],
        inode.pinned,
        inode.mark,
        inode.backing_id,
        _plain_extents(inode.extents),
        None if directory is None else _dump_directory(directory),
    ]


def _dump_directory(directory: Directory) -> list[Any]:
    entries = [[cookie, name, ino] for cookie, name, ino in directory.after(0)]
    return [directory.parent, directory.next_cookie, entries]


def _load_inode(item: list[Any]) -> Inode:
    ino, mode, uid, gid, nlink, atime_ns, mtime_ns, ctime_ns = (int(value) for value in item[:8])
    rdev, size_bytes, prealloc_bytes = (int(value) for value in item[8:11])
    target, xattrs, pinned, mark, backing_id, extents, directory = item[11:18]
    return Inode(
        Ino(ino),
        mode,
        uid,
        gid,
        nlink,
        atime_ns,
        mtime_ns,
        ctime_ns,
        rdev,
        size_bytes,
        prealloc_bytes,
        bytes(target),
        None if xattrs is None else {bytes(name): bytes(value) for name, value in xattrs},
        bool(pinned),
        bytes(mark),
        None if backing_id is None else BackingId(int(backing_id)),
        _extents(extents),
        None if directory is None else _load_directory(directory),
    )


def _load_directory(item: list[Any]) -> Directory:
    parent, next_cookie, entries = item
    directory = Directory(Ino(int(parent)), int(next_cookie))
    for cookie, name, ino in entries:
        if directory.get(name) is not None:
            raise ValueError(f"a directory has {name!r} twice")
        directory.restore(bytes(name), Ino(int(ino)), Cookie(int(cookie)))
    return directory


def _plain_extents(extents: tuple[Extent, ...]) -> list[list[int]]:
    return [[extent.start, extent.count] for extent in extents]


def _extents(items: Iterable[Any]) -> tuple[Extent, ...]:
    return tuple(Extent(BlockNumber(int(start)), int(count)) for start, count in items)
