"""fsck of an instance nobody serves: read everything, mend, store a new snapshot, look again.

Order is law here too: the mended state is stored before the region is changed to agree with it (blocks that
are copied go where nobody's data is). A crash anywhere leaves something that another run repairs.

`check` works on any files and region; `run` takes the instance's lock first. Blocking; called by cli/fsck.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final
from uuid import UUID

import trio

from guestmemfs_fuse.core import evolve
from guestmemfs_fuse.core import records as rec
from guestmemfs_fuse.core.errors import FsError, GuestmemfsError
from guestmemfs_fuse.core.state import Inode, State
from guestmemfs_fuse.core.types import Ino, round_up
from guestmemfs_fuse.engine import after_salvage, fsck, fsck_blocks, fsck_metadata, fsck_tree
from guestmemfs_fuse.engine.fsck import Checked, Finding, Result, Tick, nothing_to_tell
from guestmemfs_fuse.engine.fsck_metadata import Inspection
from guestmemfs_fuse.engine.instance_lock import InstanceLock
from guestmemfs_fuse.metadata.files import DirectoryFiles, Files
from guestmemfs_fuse.metadata.instance_config import InstanceConfig, Paths
from guestmemfs_fuse.metadata.salvage import Geometry
from guestmemfs_fuse.region import choose
from guestmemfs_fuse.region.base import OpenRegion, Region
from guestmemfs_fuse.region.memfd import FdStore

_STATE_STAYS: Final = frozenset(
    {"torn-tail", "leftover-file", "damaged-snapshot", "backing-size", "backing-memory", "empty-stray"}
)
"""What is repaired without changing the state: it is the truth, files and region follow."""


@dataclass(frozen=True, slots=True)
class Look:
    """One pass over everything."""

    inspection: Inspection
    findings: tuple[Finding, ...]
    checked: Checked

    def inos(self, kind: str) -> list[Ino]:
        """The inodes about which something of that kind was found."""
        return [Ino(each.ino) for each in self.findings if each.kind == kind and each.ino is not None]


def run(
    config: InstanceConfig,
    paths: Paths,
    store: FdStore,
    *,
    repair: bool,
    tick: Tick = nothing_to_tell,
    wait_s: float = 2.0,
) -> Result:
    """Check a stopped instance, holding its lock.

    store: for choose.open_region, nothing is put there. Raises InstanceBusyError when a daemon has the
    lock, GuestmemfsError when the region is gone, FsError when a repair could not be stored, OSError.
    """
    lock = trio.run(partial(InstanceLock.acquire, paths.lock, config.name, wait_s))
    try:
        with _region(config, paths, store) as region:
            metadata_path = choose.metadata_path(config, paths)
            if not os.path.isdir(metadata_path):
                missing = Finding("no-metadata", None, f"{metadata_path} is missing")
                return Result((missing,), Checked())
            files = DirectoryFiles(metadata_path)
            geometry = Geometry(config.size_bytes, config.block_bytes, config.kind == "hugetlb")
            try:
                uuid = UUID(config.uuid_hex)
                return check(files, uuid, region, repair=repair, tick=tick, geometry=geometry)
            finally:
                files.close()
    finally:
        lock.release()


@contextmanager
def _region(config: InstanceConfig, paths: Paths, store: FdStore) -> Iterator[OpenRegion | None]:
    """The region, None for a memfd region: its files are descriptors that only a daemon is given."""
    if config.kind == "memfd":
        yield None
        return
    if not choose.region_is_there(config, paths):
        raise GuestmemfsError(f"instance {config.name} has no memory any more")
    region = choose.open_region(config, paths, {}, store)
    try:
        yield region
    finally:
        region.close()


def check(
    files: Files,
    region_uuid: UUID,
    region: Region | None,
    *,
    repair: bool,
    tick: Tick = nothing_to_tell,
    geometry: Geometry | None = None,
) -> Result:
    """Check, and with `repair` mend what can be mended. Raises FsError, MetadataError or OSError.

    geometry: what the instance was made with, for when its snapshot is lost; else the region says it.
    """
    if geometry is None and region is not None and region.region_file is None:
        geometry = Geometry(region.use().size_bytes, region.block_bytes, extents=False)
    look = _look(files, region_uuid, region, tick, geometry)
    inspection = look.inspection
    if not repair or not look.findings or inspection.state is None:
        return Result(look.findings, look.checked, _would_lose(inspection))
    notes = _repair(look, files, region_uuid, region)
    again = _look(files, region_uuid, region, nothing_to_tell, geometry)
    return Result(fsck.judged(look.findings, again.findings), again.checked, notes)


def _look(
    files: Files, region_uuid: UUID, region: Region | None, tick: Tick, geometry: Geometry | None
) -> Look:
    holds_data = None if region is None else next(iter(region.inventory()), None) is not None
    inspection = fsck_metadata.inspect(files, region_uuid, region_holds_data=holds_data, geometry=geometry)
    state = inspection.state
    found = list(inspection.findings)
    if state is None:
        return Look(inspection, tuple(found), Checked())
    found += fsck.of_state(state)
    backings = None
    if region is not None:
        inodes = [inode for inode in state.inodes.values() if inode.is_file]
        of_region, backings = fsck.of_region(inodes, region, tick)
        found += of_region
    transactions = inspection.chain.report.frames_replayed if inspection.chain is not None else 0
    return Look(inspection, tuple(found), fsck.count(state, backings, transactions))


def _would_lose(inspection: Inspection) -> tuple[str, ...]:
    saved = inspection.saved
    if saved is None:
        return ()
    start = saved.snapshot or "what is left of it"
    what = "every whole record behind it; what is damaged would be lost"
    return (f"--repair goes on from {start} and {what}", *saved.lost)


def _repair(look: Look, files: Files, region_uuid: UUID, region: Region | None) -> tuple[str, ...]:
    """Mend the state, store it, then let the region follow. Returns what is to be told."""
    inspection, now_ns = look.inspection, time.time_ns()
    state, saved, chain = inspection.state, inspection.saved, inspection.chain
    assert state is not None
    changes = saved is not None or any(finding.kind not in _STATE_STAYS for finding in look.findings)
    if changes:
        _mend(state, look, region, now_ns, fallen_back=saved is not None)
    notes: tuple[str, ...] = ()
    if saved is not None:
        if region is None:
            after_salvage.leave_to_the_daemon(files)
        kept = fsck_metadata.replace_chain(files, region_uuid, saved)
        notes = (*saved.lost, f"{files.path} keeps the damaged files: {', '.join(kept)}")
        if region is None:
            notes = (
                *notes,
                "its memory was not reached: after the next mount, fsck --repair finds lost files",
            )
    else:
        assert chain is not None
        fsck_metadata.store_state(files, region_uuid, chain, state if changes else None)
    if region is not None:
        _let_region_follow(state, look, region)
    return notes


def _mend(state: State, look: Look, region: Region | None, now_ns: int, *, fallen_back: bool) -> None:
    strays = [ino for ino in look.inos("stray-backing") if ino not in state.inodes]
    fsck_tree.count_up(state, *strays)
    if fallen_back:
        _name_the_nameless(state, region)
    for ino in strays:
        assert region is not None
        status = region.stat(fsck.stray(ino))
        fsck_tree.adopt(state, ino, status.size_bytes, status.allocated_bytes, now_ns)
    fsck_tree.mend(state, now_ns)
    copies = fsck_blocks.mend(state)
    if copies and region is not None:
        path = str(region.layout(state.root)["path"])
        fsck_blocks.copy_blocks(path, state.block_bytes, copies)
    for ino in _begun_anew(state, look):
        evolve.evolve(rec.Resized(ino, 0, 0, now_ns), state)
    if fallen_back:
        _forget_session(state)
        _keep_what_the_region_has(state, look, region, now_ns)


def _name_the_nameless(state: State, region: Region | None) -> None:
    """A file without names is one that was removed, unless the record that gave it one is lost."""
    for inode in (state.inodes[ino] for ino in state.orphans):
        if inode.is_file and (inode.extents or (region is not None and _has_memory(region, inode))):
            inode.nlink = 1


def _has_memory(region: Region, inode: Inode) -> bool:
    try:
        return region.stat(inode).allocated_bytes > 0
    except FsError:
        return False


def _begun_anew(state: State, look: Look) -> list[Ino]:
    """Files whose memory is gone; not what has turned out to be something else."""
    return [ino for ino in look.inos("missing-backing") if state.inodes[ino].is_file]


def _forget_session(state: State) -> None:
    """Open files and backing ids of a connection whose latest changes are lost cannot be gone on with."""
    if state.session is not None:
        state.past_devices += (state.session.device,)
        state.session = None
    state.recent.clear()
    for inode in state.inodes.values():
        inode.backing_id = None


def _keep_what_the_region_has(state: State, look: Look, region: Region | None, now_ns: int) -> None:
    """After a fall-back the region is newer than the state: sizes follow the backings, no block is freed."""
    for ino in {*look.inos("backing-size"), *look.inos("backing-memory")}:
        assert region is not None
        status = region.stat(state.inodes[ino])
        reach = round_up(status.size_bytes, state.block_bytes)
        prealloc_bytes = status.allocated_bytes if status.allocated_bytes > reach else 0
        evolve.evolve(rec.Resized(ino, status.size_bytes, prealloc_bytes, now_ns), state)
    if state.free is None or not state.free.free_blocks:
        return
    free = state.free.free_extents()
    ino = state.next_ino
    fsck_tree.adopt(state, ino, sum(each.count for each in free) * state.block_bytes, 0, now_ns)
    evolve.evolve(rec.ExtentsAdded(ino, free), state)
    fsck_tree.mend(state, now_ns)


def _let_region_follow(state: State, look: Look, region: Region) -> None:
    for ino in _begun_anew(state, look):
        region.create(ino)
    for ino in {*look.inos("backing-size"), *look.inos("backing-memory")}:
        region.settle(state.inodes[ino])
    for ino in look.inos("empty-stray"):
        region.discard(fsck.stray(ino))
