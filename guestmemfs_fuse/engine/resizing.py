"""Growing and shrinking the region under live traffic.

Order: wait for memory that is on its way back; refuse what can be refused; journal; let the region follow;
then the configuration. The journal is the truth, so a crash in between is finished by the next daemon
(`settle`, before it serves). Nothing awaits between the journal and the region.

Called by the daemon.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import trio

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.state import State
from guestmemfs_fuse.core.types import round_up
from guestmemfs_fuse.engine.engine import Engine
from guestmemfs_fuse.metadata.instance_config import InstanceConfig, Paths
from guestmemfs_fuse.region.base import Region

log = logging.getLogger(__name__)


async def resize_region(engine: Engine, size_bytes: int) -> int:
    """Give the region another size, rounded up to whole blocks; returns it.

    Raises InstanceBusyError below its use, OutOfMemoryError, UnsupportedError (the kind cannot), BusyFsError
    (frozen); then everything is as it was.
    """
    region = engine.region
    wanted_bytes = round_up(size_bytes, region.block_bytes)
    async with engine.memory.alone():
        while region.freeing.pending_bytes:  # again for what is removed meanwhile; nothing is made
            await trio.to_thread.run_sync(region.freeing.wait)
        if engine.state.free is not None:
            region.resize(wanted_bytes)  # where files are extents of one file: says why not
        had_bytes = engine.state.region_bytes
        region.use().require_fits(wanted_bytes)
        engine.ledger.commit(cmd.ResizeRegion(wanted_bytes))
        try:
            region.resize(wanted_bytes)
        except BaseException:
            engine.ledger.commit(cmd.ResizeRegion(had_bytes))
            raise
    return wanted_bytes


def settle(config: InstanceConfig, state: State, region: Region, state_dir: str) -> InstanceConfig:
    """Finish a resize that the last daemon journaled and did not live to finish; the configuration as it is.

    Raises what Region.resize raises.
    """
    if state.region_bytes == config.size_bytes:
        return config
    log.info("finishing the resize from %d to %d bytes", config.size_bytes, state.region_bytes)
    region.resize(state.region_bytes)
    return save(config, state.region_bytes, state_dir)


def save(config: InstanceConfig, size_bytes: int, state_dir: str) -> InstanceConfig:
    """The configuration with another size, written down; where that fails, a later daemon settles it."""
    changed = replace(config, size_bytes=size_bytes)
    try:
        changed.save(state_dir)
    except OSError as error:
        log.warning("%s still has the old size: %s", Paths(state_dir).config, error.strerror)
    return changed
