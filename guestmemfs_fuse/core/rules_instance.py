"""Rules for what the command line and the daemon itself ask: pins, freeze, sessions, the region's size.

Each rule reads a State and returns the records that carry its command out, or raises an FsError.
Called by core/decide.
"""

from __future__ import annotations

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core import errors as err
from guestmemfs_fuse.core import records as rec
from guestmemfs_fuse.core.evolve import join
from guestmemfs_fuse.core.lookup import file_of, inode_of
from guestmemfs_fuse.core.state import State
from guestmemfs_fuse.core.types import BlockNumber, Extent

Records = tuple[rec.Record, ...]


def pin(command: cmd.Pin, state: State, now_ns: int) -> Records:
    inode = file_of(state, command.ino)
    return () if inode.pinned == command.pinned else (rec.PinSet(command.ino, command.pinned),)


def mark(command: cmd.Mark, state: State, now_ns: int) -> Records:
    inode = file_of(state, command.ino)
    return () if inode.mark == command.mark else (rec.MarkSet(command.ino, command.mark),)


def freeze(command: cmd.Freeze, state: State, now_ns: int) -> Records:
    return () if state.frozen == command.frozen else (rec.FrozenState(command.frozen),)


def start_daemon(command: cmd.StartDaemon, state: State, now_ns: int) -> Records:
    return (rec.DaemonStarted(state.generation + 1),)


def start_session(command: cmd.StartSession, state: State, now_ns: int) -> Records:
    return (rec.SessionStarted(command.init_request, command.device),)


def end_session(command: cmd.EndSession, state: State, now_ns: int) -> Records:
    return () if state.session is None else (rec.SessionEnded(state.session.device),)


def open_backing(command: cmd.OpenBacking, state: State, now_ns: int) -> Records:
    inode_of(state, command.ino)
    return (rec.BackingOpened(command.ino, command.backing_id),)


def close_backing(command: cmd.CloseBacking, state: State, now_ns: int) -> Records:
    return (rec.BackingClosed(command.ino),) if inode_of(state, command.ino).backing_id is not None else ()


def quarantine(command: cmd.Quarantine, state: State, now_ns: int) -> Records:
    total_blocks = state.region_bytes // state.block_bytes
    if any(not 0 <= each.start < each.end <= total_blocks for each in command.extents):
        raise err.InvalidCallError("a block outside the region")
    known = _blocks(state.quarantined)
    fresh = sorted(_blocks(command.extents) - known)
    extents = join(tuple(Extent(BlockNumber(block), 1) for block in fresh))
    return (rec.Quarantined(extents),) if extents else ()


def _blocks(extents: tuple[Extent, ...]) -> set[int]:
    return {block for extent in extents for block in range(extent.start, extent.end)}


def resize_region(command: cmd.ResizeRegion, state: State, now_ns: int) -> Records:
    if command.size_bytes <= 0 or command.size_bytes % state.block_bytes:
        raise err.InvalidCallError("a region is whole blocks")
    if command.size_bytes == state.region_bytes:
        return ()
    if state.free is not None:
        _require_free_from(state, command.size_bytes // state.block_bytes)
    return (rec.RegionResized(command.size_bytes),)


def _require_free_from(state: State, block: int) -> None:
    """No file's block, and no withheld one, stands at or behind `block`."""
    assert state.free is not None
    tail = state.free.free_extents()[-1:]
    total = state.free.total_blocks
    if block < total and not (tail and tail[0].end == total and tail[0].start <= block):
        raise err.BusyFsError("blocks beyond the new end are in use")
