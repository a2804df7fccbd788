"""fsck of an instance that is being served, by its daemon: nothing stops, nothing is reported that is not so.

The state is copied on the event loop (in slices; again when something was committed meanwhile, the last time
in one go), the copy is checked and compared with the region in a thread, and what differs there is looked
at once more under the inode's gate, because files came and went while the thread looked.

Repairs go the way of every change: journaled, then applied, then the region follows. What they cannot reach
(names, blocks) is left to a run on the stopped instance. Called by control/handlers.
"""

from __future__ import annotations

import copy
import stat
import time
from collections.abc import Iterator
from dataclasses import fields, replace
from operator import attrgetter
from typing import Final

import trio

from guestmemfs_fuse.core import records as rec
from guestmemfs_fuse.core.errors import FsError
from guestmemfs_fuse.core.state import Inode, State
from guestmemfs_fuse.core.types import ROOT_INO, Ino
from guestmemfs_fuse.engine import fsck, fsck_tree, recovery
from guestmemfs_fuse.engine.engine import Engine
from guestmemfs_fuse.engine.fsck import Checked, Finding, Result, Tick, nothing_to_tell
from guestmemfs_fuse.region.base import Region

_SLICE: Final = 250
"""Inodes copied in one go: half a millisecond."""
_TRIES: Final = 3
_OF_FILES: Final = frozenset({"backing-size", "backing-memory", "missing-backing"})
_OF_STRAYS: Final = frozenset({"stray-backing", "empty-stray", "alien-backing"})


async def check(engine: Engine, *, repair: bool, tick: Tick = nothing_to_tell) -> Result:
    """Check a live instance. tick is called in a thread."""
    await engine.swept.wait()
    result = await _look(engine, tick)
    if not repair or result.clean:
        return result
    if engine.state.frozen:
        return replace(result, notes=("the instance is frozen, nothing was repaired",))
    for finding in result.findings:
        await _repair(engine, finding)
    again = await _look(engine, nothing_to_tell)
    judged = Result(fsck.judged(result.findings, again.findings), again.checked)
    if judged.unrepaired:
        return replace(judged, notes=("more can be repaired after `guestmemfs umount`",))
    return judged


async def _look(engine: Engine, tick: Tick) -> Result:
    state = await _copied(engine)
    found, checked = await trio.to_thread.run_sync(_compare, state, engine.region, tick)
    return Result(tuple(await _confirmed(engine, found)), checked)


def _compare(state: State, region: Region, tick: Tick) -> tuple[list[Finding], Checked]:
    """Also empties the copy: to free so much at once would stop everybody, from whatever thread."""
    files = [inode for inode in state.inodes.values() if inode.is_file]
    of_region, backings = fsck.of_region(files, region, tick)
    found, checked = [*fsck.of_state(state), *of_region], fsck.count(state, backings)
    while state.inodes:
        state.inodes.popitem()
    while files:
        files.pop()
    return found, checked


async def _copied(engine: Engine) -> State:
    """The state as it was at one moment."""
    for _ in range(_TRIES):
        committed = engine.ledger.committed
        copies: dict[Ino, Inode] = {}
        for number, inode in enumerate(list(engine.state.inodes.values())):
            copies[inode.ino] = _copy_of(inode)
            if number % _SLICE == 0:
                await trio.lowlevel.checkpoint()
        if engine.ledger.committed == committed:
            return _with(engine.state, copies)
    return _with(engine.state, {ino: _copy_of(inode) for ino, inode in engine.state.inodes.items()})


_all_fields = attrgetter(*(each.name for each in fields(Inode)))


def _copy_of(inode: Inode) -> Inode:
    twin = Inode(*_all_fields(inode))
    twin.xattrs = None if inode.xattrs is None else inode.xattrs.copy()
    if inode.directory is not None:
        twin.directory = inode.directory.copy()
    return twin


def _with(state: State, inodes: dict[Ino, Inode]) -> State:
    usage = {uid: copy.copy(owned) for uid, owned in state.usage.items()}
    free = copy.deepcopy(state.free)
    return replace(state, inodes=inodes, orphans=set(state.orphans), usage=usage, free=free)


async def _confirmed(engine: Engine, found: list[Finding]) -> list[Finding]:
    """What the thread found and is still so."""
    confirmed: list[Finding] = []
    for finding in found:
        if finding.kind in _OF_FILES and finding.ino is not None:
            now = await _of_file_now(engine, Ino(finding.ino))
            confirmed += [each for each in now if each.kind == finding.kind]
        elif finding.kind not in _OF_STRAYS:
            confirmed.append(finding)
    strays = {Ino(each.ino) for each in found if each.kind in _OF_STRAYS and each.ino is not None}
    # No await between listing and comparing: a create makes its backing and its inode in one go.
    return confirmed + (list(_strays_now(engine, strays)) if strays else [])


def _strays_now(engine: Engine, suspects: set[Ino]) -> Iterator[Finding]:
    known = {ino for ino in suspects if ino in engine.state.inodes and engine.state.inodes[ino].is_file}
    for ino in engine.region.inventory():
        if ino in suspects - known:
            yield fsck.of_stray(ino, engine.region)


async def _of_file_now(engine: Engine, ino: Ino) -> list[Finding]:
    async with engine.gate.settling(ino):
        inode = engine.state.inodes.get(ino)
        return fsck.of_file(inode, engine.region) if inode is not None and inode.is_file else []


async def _repair(engine: Engine, finding: Finding) -> None:
    """Put right what can be put right while callers go on."""
    if finding.ino is None:
        return
    ino = Ino(finding.ino)
    if finding.kind in ("backing-size", "backing-memory"):
        async with engine.gate.settling(ino):
            recovery.settle(engine.state, engine.region, ino)
    elif finding.kind == "empty-stray":
        recovery.discard_stray(engine.state, engine.region, ino)
    elif finding.kind == "stray-backing":
        await _adopt(engine, ino)
    elif finding.kind == "missing-backing":
        async with engine.gate.settling(ino):
            _begin_anew(engine, ino)
    elif finding.kind == "wrong-nlink":
        _recount(engine, ino)


async def _adopt(engine: Engine, ino: Ino) -> None:
    """An inode in /lost+found for a backing that has none."""
    state, now_ns = engine.state, time.time_ns()
    if ino in state.inodes:
        return
    try:
        status = engine.region.stat(fsck.stray(ino))
    except FsError:
        return  # gone since it was found
    made = fsck_tree.lost_and_found(state, now_ns)
    if made:
        engine.ledger.repair(made)
    place = fsck_tree.place_of_the_lost(state)
    assert place is not None
    directory = state.inodes[place].directory
    assert directory is not None
    name = fsck_tree.free_name(directory, b"#%d" % ino)
    beyond = status.allocated_bytes if status.allocated_bytes > status.size_bytes else 0
    engine.ledger.repair(
        (
            rec.Made(place, name, ino, stat.S_IFREG | 0o600, 0, 0, 0, b"", now_ns),
            rec.Resized(ino, status.size_bytes, beyond, now_ns),
        )
    )
    for directory_ino, entry in ((ROOT_INO, fsck_tree.LOST_AND_FOUND), (place, name)):
        engine.kernel.invalidate_inode(directory_ino)
        await trio.to_thread.run_sync(engine.kernel.invalidate_entry, directory_ino, entry)


def _begin_anew(engine: Engine, ino: Ino) -> None:
    """A file whose memory is gone becomes an empty one; not while the kernel may still have its backing."""
    inode = engine.state.inodes.get(ino)
    if inode is None or inode.backing_id is not None:
        return
    engine.ledger.repair((rec.Resized(ino, 0, 0, time.time_ns()),))
    engine.region.create(ino)
    engine.kernel.invalidate_inode(ino)


def _recount(engine: Engine, ino: Ino) -> None:
    """The link count of a file that is no directory: how many names lead to it."""
    inode = engine.state.inodes.get(ino)
    if inode is None or inode.directory is not None:
        return
    directories = (each.directory for each in engine.state.inodes.values() if each.directory is not None)
    names = sum(found == ino for directory in directories for _, found in directory.items())
    if names != inode.nlink:
        engine.ledger.repair((rec.Repaired(ino, names),))
        engine.kernel.invalidate_inode(ino)
