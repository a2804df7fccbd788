"""Our handlers behind pyfuse3's own loop, without the relay: what bench/control.py compares with.

    python -m guestmemfs_fuse.bench.plain_server REGION_DIR MOUNTPOINT SIZE

REGION_DIR is a tmpfs mounted for this. Same engine, journal and region as the daemon's; what is missing is
what needs the relay: passthrough, resumption, fallocate. Says `serving`, then serves until unmounted.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from uuid import uuid4

import pyfuse3
import trio

from guestmemfs_fuse.core.state import new_state
from guestmemfs_fuse.core.types import BackingId, Ino
from guestmemfs_fuse.engine.engine import Engine
from guestmemfs_fuse.fuse.operations import GuestOperations
from guestmemfs_fuse.metadata.files import DirectoryFiles
from guestmemfs_fuse.metadata.store import Store
from guestmemfs_fuse.region.huge_policy import HugePolicy
from guestmemfs_fuse.region.tmpfs import TmpfsRegion

_BLOCK_BYTES = 2 << 20
_MAX_TASKS = 2048
"""As the daemon has it."""


class _NoPassthrough:
    """The connection as engine/kernel.Kernel: libfuse owns it, so nothing can be registered or asked."""

    has_passthrough = False

    def __init__(self) -> None:
        self.dropped: set[int] = set()

    def backing_open(self, backing_fd: int) -> BackingId:
        raise NotImplementedError("never called without passthrough")

    def backing_close(self, backing_id: BackingId) -> None:
        pass

    def knows(self, ino: Ino) -> bool:
        return ino not in self.dropped

    def invalidate_inode(self, ino: Ino) -> None:
        pass

    def invalidate_entry(self, parent: Ino, name: bytes) -> None:
        pass


class PlainOperations(GuestOperations):
    """The daemon's handlers, and FORGET, which there comes from the relay."""

    def __init__(self, engine: Engine, kernel: _NoPassthrough) -> None:
        super().__init__(engine, lambda token: None)
        self._kernel = kernel

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        """See pyfuse3.Operations.forget. An inode without a name that was dropped is not looked up again."""
        inos = [ino for ino, _ in inode_list]
        self._kernel.dropped |= self._engine.state.orphans.intersection(inos)
        self._engine.orphans.forgotten(inos)


async def serve(region_dir: str, mountpoint: str, size_bytes: int) -> None:
    """Make an empty instance in region_dir and serve it at mountpoint until it is unmounted."""
    region = TmpfsRegion(region_dir, size_bytes, _BLOCK_BYTES)
    region.huge_policy = HugePolicy("prefer")
    files = DirectoryFiles(region.metadata_path)
    state = new_state(region_bytes=size_bytes, block_bytes=_BLOCK_BYTES, now_ns=0, extents=False)
    region.attach(state)
    store = Store.create(files, uuid4(), state)
    kernel = _NoPassthrough()
    engine = Engine(state, store, region, kernel)
    options = {"fsname=bench-plain", "default_permissions", "allow_other"}
    pyfuse3.init(PlainOperations(engine, kernel), mountpoint, options)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.orphans.run)
            print("serving", flush=True)
            await pyfuse3.main(1, _MAX_TASKS)
            nursery.cancel_scope.cancel()
    finally:
        with contextlib.suppress(OSError):
            pyfuse3.close(unmount=False)


if __name__ == "__main__":
    trio.run(serve, sys.argv[1], sys.argv[2], int(sys.argv[3]))
    os._exit(0)  # what a teardown in order costs is not measured
