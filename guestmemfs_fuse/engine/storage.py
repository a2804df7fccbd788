"""Region and metadata of an instance, opened together: both exist and carry the same UUID, or nothing opens.

A fresh start happens only when there is neither memory nor metadata; live data without metadata, or the
reverse, is refused.

Called by the daemon at start-up.
"""

from __future__ import annotations

import gc
import logging
import os
import time
from uuid import UUID

import trio

from guestmemfs_fuse.core.errors import CorruptMetadataError, GuestmemfsError
from guestmemfs_fuse.core.state import State, new_state
from guestmemfs_fuse.engine import after_salvage
from guestmemfs_fuse.metadata import compact
from guestmemfs_fuse.metadata import store as metadata
from guestmemfs_fuse.metadata.chain import Chain
from guestmemfs_fuse.metadata.files import DirectoryFiles
from guestmemfs_fuse.metadata.instance_config import InstanceConfig, Paths
from guestmemfs_fuse.region import choose
from guestmemfs_fuse.region.base import OpenRegion
from guestmemfs_fuse.region.choose import ReceivedFds
from guestmemfs_fuse.region.memfd import FdStore

log = logging.getLogger(__name__)


class Storage:
    """An open region with its open store. Owns descriptors, no memory."""

    def __init__(
        self, region: OpenRegion, files: DirectoryFiles, store: metadata.Store, state: State, uuid: UUID
    ) -> None:
        self.region = region
        self.store = store
        self.state = state
        self._files = files
        self._uuid = uuid
        self._appended = trio.Event()
        self._inodes_frozen = len(state.inodes)
        self._writing = True
        self._closed = False

    def stop_writing(self) -> None:
        """A successor writes the metadata from now on. Twice is harmless.

        The region stays open until `close`: a thread that still measures files must not find other files
        under the numbers of its descriptors.
        """
        if self._writing:
            self._writing = False
            self.store.close()

    def close(self) -> None:
        """Let go of all descriptors; leave a snapshot where that is cheap. Twice is harmless."""
        if self._closed:
            return
        self._closed = True
        if self._writing:
            self._writing = False
            self.store.close(self.state)
        self._files.close()
        self.region.close()

    def note_commit(self) -> None:
        """Something was journaled: see whether the journal is due to be folded."""
        if self.store.compaction_due:
            self._appended.set()

    async def compact_when_due(self) -> None:
        """Fold the journal whenever it is due, in a process of its own; runs for ever."""
        while True:
            await self._appended.wait()
            self._appended = trio.Event()
            self._spare_the_collector()
            began_ns = time.monotonic_ns()
            try:
                self.store.rotate()
                await self._compact()
                self.store.note_compaction(took_ns=time.monotonic_ns() - began_ns)
            except (GuestmemfsError, OSError) as error:
                log.warning("the journal was not folded: %s", error)

    def _spare_the_collector(self) -> None:
        """Have a table that has grown left out when garbage is looked for: callers wait for a full look.

        That takes 30 ms for each 100,000 inodes, and finds none: they end with their last reference. Only
        after another quarter, since what garbage there is stays for good.
        """
        if len(self.state.inodes) > self._inodes_frozen * 5 // 4:
            self._inodes_frozen = len(self.state.inodes)
            gc.collect(1)
            gc.freeze()

    async def _compact(self) -> None:
        command = compact.command(self._files.path, self._uuid)
        result = await trio.run_process(command, check=False, capture_stderr=True, stdin=None)
        if result.returncode:
            raise GuestmemfsError(result.stderr.decode(errors="replace").strip() or "compaction died")


def read_ahead(config: InstanceConfig, paths: Paths) -> Chain | None:
    """The metadata as a daemon that still serves is writing it: a successor reads it before it takes over.

    None when it cannot be read now; then `open_storage` will say why.
    """
    try:
        files = DirectoryFiles(choose.metadata_path(config, paths))
    except OSError:
        return None
    try:
        return metadata.read_only_view(files, UUID(config.uuid_hex))
    except (GuestmemfsError, OSError):
        return None
    finally:
        files.close()


def open_storage(
    config: InstanceConfig,
    paths: Paths,
    received: ReceivedFds,
    fd_store: FdStore,
    ahead: Chain | None = None,
) -> Storage:
    """Attach to what is there, or make it. ahead: what `read_ahead` found; only what came since is read.

    Raises MetadataError (refused, nothing changed), OutOfMemoryError or UnsupportedError (region), OSError.
    """
    if not choose.region_is_there(config, paths, received):
        received = {**received, **choose.create_region(config, paths, fd_store)}
    region = choose.open_region(config, paths, received, fd_store)
    os.makedirs(region.metadata_path, mode=0o700, exist_ok=True)
    files = DirectoryFiles(region.metadata_path)
    uuid = UUID(config.uuid_hex)
    # Where memory outlives the kernel, so must what was acknowledged.
    durability = metadata.Durability.POWER if config.kind == "dax" else metadata.Durability.KILL
    if metadata.exists(files):
        opened = metadata.Store.open(files, uuid, durability=durability, warm=ahead)
        for remark in opened.report.remarks:
            log.warning("%s", remark)
        region.attach(opened.state)
        after_salvage.follow_the_memory(files, opened.state, opened.store, region)
        return Storage(region, files, opened.store, opened.state, uuid)
    if region.holds_data():
        raise CorruptMetadataError(
            f"{files.path} holds no metadata, but the region holds files",
            hint="put the metadata back; `guestmemfs destroy` gives the memory up",
        )
    state = new_state(
        region_bytes=config.size_bytes,
        block_bytes=config.block_bytes,
        now_ns=time.time_ns(),
        extents=config.kind == "hugetlb",
    )
    region.attach(state)
    return Storage(
        region, files, metadata.Store.create(files, uuid, state, durability=durability), state, uuid
    )
