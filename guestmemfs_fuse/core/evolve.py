"""Apply records to a State. The one place where state changes; it cannot fail on what decide wrote.

Called by the engine (live), metadata/store (replay), fsck and the model tests: one definition of what
each record means.
"""

from __future__ import annotations

import stat
from functools import singledispatch

from guestmemfs_fuse.core import records as rec
from guestmemfs_fuse.core.directory import Directory
from guestmemfs_fuse.core.state import PAST_DEVICES, RECENT_REQUESTS, Inode, Session, State
from guestmemfs_fuse.core.types import BlockNumber, Extent, Ino


def apply(state: State, transaction: rec.Transaction) -> None:
    """Apply all records of one transaction and remember which request it answered."""
    for record in transaction.records:
        evolve(record, state)
    if transaction.origin:
        state.recent[transaction.origin] = transaction.ino
        if len(state.recent) > RECENT_REQUESTS:
            state.recent.popitem(last=False)


@singledispatch
def evolve(record: object, state: State) -> None:
    """Apply one record to `state`."""
    raise AssertionError(f"no meaning for record {type(record).__name__}")


def _directory(state: State, ino: Ino) -> Directory:
    directory = state.inodes[ino].directory
    assert directory is not None, f"inode {ino} is not a directory"
    return directory


def _touch(inode: Inode, now_ns: int) -> None:
    """The content (of a directory: its entries) changed."""
    inode.mtime_ns = inode.ctime_ns = now_ns


def _enter(state: State, parent: Ino, name: bytes, ino: Ino, now_ns: int) -> None:
    """Add an entry; a subdirectory's `..` counts as a link of its parent."""
    _directory(state, parent).add(name, ino)
    _adopt(state, parent, ino)
    _touch(state.inodes[parent], now_ns)


def _adopt(state: State, parent: Ino, ino: Ino) -> None:
    child = state.inodes[ino].directory
    if child is not None:
        child.parent = parent
        state.inodes[parent].nlink += 1


def _drop_name(state: State, parent: Ino, ino: Ino, now_ns: int) -> None:
    """One name of `ino` in `parent` is gone."""
    inode = state.inodes[ino]
    if inode.directory is not None:
        state.inodes[parent].nlink -= 1
        inode.nlink = 0
    else:
        inode.nlink -= 1
    inode.ctime_ns = now_ns
    if inode.nlink == 0:
        state.orphans.add(ino)


@evolve.register
def _made(record: rec.Made, state: State) -> None:
    now_ns = record.now_ns
    inode = Inode(
        record.ino,
        record.mode,
        record.uid,
        record.gid,
        nlink=0,
        atime_ns=now_ns,
        mtime_ns=now_ns,
        ctime_ns=now_ns,
        rdev=record.rdev,
        target=record.target,
        size_bytes=len(record.target),
    )
    if stat.S_ISDIR(record.mode):
        inode.directory = Directory(record.parent)
    state.inodes[record.ino] = inode
    state.next_ino = Ino(max(state.next_ino, record.ino + 1))
    state.user(record.uid).files += 1
    if record.name:
        inode.nlink = 2 if inode.is_dir else 1
        _enter(state, record.parent, record.name, record.ino, now_ns)
    else:
        state.orphans.add(record.ino)


@evolve.register
def _linked(record: rec.Linked, state: State) -> None:
    inode = state.inodes[record.ino]
    _enter(state, record.parent, record.name, record.ino, record.now_ns)
    inode.nlink += 1
    inode.ctime_ns = record.now_ns
    state.orphans.discard(record.ino)


@evolve.register
def _unlinked(record: rec.Unlinked, state: State) -> None:
    ino = _directory(state, record.parent).remove(record.name)
    _touch(state.inodes[record.parent], record.now_ns)
    _drop_name(state, record.parent, ino, record.now_ns)


@evolve.register
def _renamed(record: rec.Renamed, state: State) -> None:
    if record.exchange:
        _exchanged(record, state)
        return
    old, new = _directory(state, record.parent), _directory(state, record.new_parent)
    replaced = new.get(record.new_name)
    if replaced is not None:
        new.remove(record.new_name)
        _drop_name(state, record.new_parent, replaced, record.now_ns)
    ino = old.remove(record.name)
    if state.inodes[ino].is_dir:
        state.inodes[record.parent].nlink -= 1
    _touch(state.inodes[record.parent], record.now_ns)
    _enter(state, record.new_parent, record.new_name, ino, record.now_ns)
    state.inodes[ino].ctime_ns = record.now_ns


def _exchanged(record: rec.Renamed, state: State) -> None:
    old, new = _directory(state, record.parent), _directory(state, record.new_parent)
    first, second = old.get(record.name), new.get(record.new_name)
    assert first is not None and second is not None
    old.replace(record.name, second)
    new.replace(record.new_name, first)
    for ino, left, joined in (
        (first, record.parent, record.new_parent),
        (second, record.new_parent, record.parent),
    ):
        if state.inodes[ino].is_dir:
            state.inodes[left].nlink -= 1
            _adopt(state, joined, ino)
        state.inodes[ino].ctime_ns = record.now_ns
    _touch(state.inodes[record.parent], record.now_ns)
    _touch(state.inodes[record.new_parent], record.now_ns)


@evolve.register
def _attrs_set(record: rec.AttrsSet, state: State) -> None:
    inode = state.inodes[record.ino]
    if record.mode is not None:
        inode.mode = record.mode
    if record.uid is not None and record.uid != inode.uid:
        held = inode.xattr_bytes
        before, after = state.user(inode.uid), state.user(record.uid)
        before.files, before.xattr_bytes = before.files - 1, before.xattr_bytes - held
        after.files, after.xattr_bytes = after.files + 1, after.xattr_bytes + held
        inode.uid = record.uid
    if record.gid is not None:
        inode.gid = record.gid
    if record.atime_ns is not None:
        inode.atime_ns = record.atime_ns
    if record.mtime_ns is not None:
        inode.mtime_ns = record.mtime_ns
    inode.ctime_ns = record.ctime_ns


@evolve.register
def _resized(record: rec.Resized, state: State) -> None:
    inode = state.inodes[record.ino]
    inode.size_bytes, inode.prealloc_bytes = record.size_bytes, record.prealloc_bytes
    _touch(inode, record.now_ns)


@evolve.register
def _punched(record: rec.Punched, state: State) -> None:
    _touch(state.inodes[record.ino], record.now_ns)


@evolve.register
def _xattr_set(record: rec.XattrSet, state: State) -> None:
    inode = state.inodes[record.ino]
    xattrs = inode.xattrs = inode.xattrs if inode.xattrs is not None else {}
    before = len(record.name) + len(xattrs[record.name]) if record.name in xattrs else 0
    xattrs[record.name] = record.value
    state.user(inode.uid).xattr_bytes += len(record.name) + len(record.value) - before
    inode.ctime_ns = record.now_ns


@evolve.register
def _xattr_removed(record: rec.XattrRemoved, state: State) -> None:
    inode = state.inodes[record.ino]
    assert inode.xattrs is not None
    value = inode.xattrs.pop(record.name)
    inode.xattrs = inode.xattrs or None
    state.user(inode.uid).xattr_bytes -= len(record.name) + len(value)
    inode.ctime_ns = record.now_ns


@evolve.register
def _reaped(record: rec.Reaped, state: State) -> None:
    inode = state.inodes.pop(record.ino)
    state.orphans.discard(record.ino)
    owner = state.user(inode.uid)
    owner.files, owner.xattr_bytes = owner.files - 1, owner.xattr_bytes - inode.xattr_bytes
    if owner.files == 0:
        del state.usage[inode.uid]
    if state.free is not None and inode.extents:
        state.free.free(inode.extents)


@evolve.register
def _pin_set(record: rec.PinSet, state: State) -> None:
    state.inodes[record.ino].pinned = record.pinned


@evolve.register
def _mark_set(record: rec.MarkSet, state: State) -> None:
    state.inodes[record.ino].mark = record.mark


@evolve.register
def _frozen_state(record: rec.FrozenState, state: State) -> None:
    state.frozen = record.frozen


@evolve.register
def _daemon_started(record: rec.DaemonStarted, state: State) -> None:
    state.generation = record.generation


@evolve.register
def _session_started(record: rec.SessionStarted, state: State) -> None:
    if state.session is not None and state.session.device != record.device:
        others = tuple(device for device in state.past_devices if device != record.device)
        state.past_devices = (*others, state.session.device)[-PAST_DEVICES:]
    state.session = Session(record.init_request, record.device)
    _forget_connection(state)


@evolve.register
def _session_ended(record: rec.SessionEnded, state: State) -> None:
    state.session = None
    state.past_devices = tuple(device for device in state.past_devices if device != record.device)
    _forget_connection(state)


def _forget_connection(state: State) -> None:
    """Requests and backing ids belonged to the connection before."""
    state.recent.clear()
    for inode in state.inodes.values():
        inode.backing_id = None


@evolve.register
def _backing_opened(record: rec.BackingOpened, state: State) -> None:
    state.inodes[record.ino].backing_id = record.backing_id


@evolve.register
def _backing_closed(record: rec.BackingClosed, state: State) -> None:
    state.inodes[record.ino].backing_id = None


@evolve.register
def _extents_added(record: rec.ExtentsAdded, state: State) -> None:
    inode = state.inodes[record.ino]
    assert state.free is not None
    state.free.take(record.extents)
    inode.extents = join(inode.extents + record.extents)


@evolve.register
def _extents_cut(record: rec.ExtentsCut, state: State) -> None:
    inode = state.inodes[record.ino]
    assert state.free is not None
    inode.extents, cut = split(inode.extents, record.blocks)
    state.free.free(cut)


@evolve.register
def _quarantined(record: rec.Quarantined, state: State) -> None:
    total_blocks = state.region_bytes // state.block_bytes
    assert all(extent.end <= total_blocks for extent in record.extents), "a block outside the region"
    state.quarantined += record.extents
    if state.free is not None:
        for extent in record.extents:
            for block in range(extent.start, extent.end):
                state.free.quarantine(BlockNumber(block))


@evolve.register
def _region_resized(record: rec.RegionResized, state: State) -> None:
    if state.free is not None:
        blocks = record.size_bytes // state.block_bytes
        if record.size_bytes > state.region_bytes:
            state.free.grow(blocks)
        else:
            state.free.shrink(blocks)
    state.region_bytes = record.size_bytes


@evolve.register
def _repaired(record: rec.Repaired, state: State) -> None:
    inode = state.inodes[record.ino]
    inode.nlink = record.nlink
    if inode.directory is not None:
        inode.directory.parent = record.parent
    if record.nlink:
        state.orphans.discard(record.ino)
    else:
        state.orphans.add(record.ino)


def join(extents: tuple[Extent, ...]) -> tuple[Extent, ...]:
    """Runs that touch become one; the order, which is the file's, stays."""
    joined: list[Extent] = []
    for extent in extents:
        if joined and joined[-1].end == extent.start:
            before = joined.pop()
            extent = Extent(before.start, before.count + extent.count)
        joined.append(extent)
    return tuple(joined)


def split(extents: tuple[Extent, ...], blocks: int) -> tuple[tuple[Extent, ...], tuple[Extent, ...]]:
    """The first `blocks` blocks of a file's extents, and the rest."""
    kept: list[Extent] = []
    cut: list[Extent] = []
    for extent in extents:
        here = min(blocks, extent.count)
        blocks -= here
        if here:
            kept.append(Extent(extent.start, here))
        if here < extent.count:
            cut.append(Extent(BlockNumber(extent.start + here), extent.count - here))
    return tuple(kept), tuple(cut)
