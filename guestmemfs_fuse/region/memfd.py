"""Unlinked shmem files kept alive by descriptors in the fd store: what LUO can take.

The files are O_TMPFILE files of a private tmpfs that is mounted nowhere (memfd_create would follow the host's
shmem_enabled and could be swapped). Each file's descriptor, and the mount's, is in the store under a name
of `region-`; closing the last copy gives the memory up, so only `discard` and destroying the holder do.

Called by region/choose.py and the engine.
"""

from __future__ import annotations

import logging
import os
import resource
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Final, Protocol

from guestmemfs_fuse.core.errors import (
    DaemonError,
    RegionFullError,
    StaleInodeError,
    UnsupportedError,
)
from guestmemfs_fuse.core.state import Inode
from guestmemfs_fuse.core.types import Ino
from guestmemfs_fuse.linux import mount
from guestmemfs_fuse.region import host_memory, private_tmpfs
from guestmemfs_fuse.region.backing_files import FREED_AT_ONCE_BYTES, BackingFiles
from guestmemfs_fuse.region.base import BackingStat, RegionUse

log = logging.getLogger(__name__)

MOUNT_NAME: Final = "region-mount"
_FILE_PREFIX: Final = "region-ino-"


class FdStore(Protocol):
    """Where descriptors outlive the daemon (handover/fdstore.Notifier)."""

    @property
    def present(self) -> bool: ...

    def store(self, name: str, *fds: int) -> None: ...

    def remove(self, name: str) -> None: ...


class MemfdRegion(BackingFiles):
    """A region whose files are descriptors. Owns its copies of them; the store has the ones that count."""

    kind = "memfd"

    def __init__(
        self,
        received: Mapping[str, list[int]],
        store: FdStore,
        metadata_path: str,
        size_bytes: int,
        block_bytes: int,
        numa_node: int | None = None,
    ) -> None:
        super().__init__(block_bytes, numa_node)
        self.metadata_path = metadata_path
        self.size_bytes = size_bytes
        self._store = store
        self._mount_fd = received[MOUNT_NAME][-1]
        self._fds = file_fds(received)
        # Threads (status, sweep, a forced resize) meet `discard` on the event loop: a number they looked up
        # must not be closed before it is used, since it may be another file's at once.
        self._table = threading.Lock()
        own = os.fstat(self._mount_fd).st_dev
        # Files that came through a kexec: the kernel made them anew, on its own tmpfs.
        self._retrieved = {ino for ino, fd in self._fds.items() if os.fstat(fd).st_dev != own}
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

    def handover_fds(self) -> dict[str, list[int]]:
        """See OpenRegion. A successor counts as used what is not back yet, and cannot wait for it."""
        self.freeing.wait()
        files = {_name(ino): [fd] for ino, fd in self._fds.items()}
        return {MOUNT_NAME: [self._mount_fd], **files}

    def close(self) -> None:
        """Let go of our copies; the memory stays with the store's."""
        self.freeing.wait()
        for fd in (self._mount_fd, *self._fds.values()):
            os.close(fd)

    def create(self, ino: Ino) -> None:
        """See Region.create. Raises RegionFullError when no descriptor is left."""
        self._drop(ino)  # what an unacknowledged create left
        try:
            fd = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=self._mount_fd)
        except OSError as error:
            raise RegionFullError(f"no room for another file ({error.strerror})") from error
        try:
            self._store.store(_name(ino), fd)
        except DaemonError as error:
            os.close(fd)
            raise RegionFullError(f"no memory that would outlive this daemon: {error.message}") from error
        self._fds[ino] = fd

    def _drop(self, ino: Ino) -> None:
        """Give a file up, if there is one."""
        with self._table:
            fd = self._fds.pop(ino, None)
        if fd is None:
            return
        had_bytes = os.fstat(fd).st_blocks * 512
        # What came through a kexec is on another tmpfs, and not in the figures that `use` begins with.
        if had_bytes > FREED_AT_ONCE_BYTES and ino not in self._retrieved:
            self.freeing.take(had_bytes, partial(_give_up, fd))
        else:
            _give_up(fd)
        self._retrieved.discard(ino)
        try:
            self._store.remove(_name(ino))
        except DaemonError as error:
            # A store that was killed has nothing left, one that does not listen an empty file, which the next
            # daemon finds and removes. Neither is a reason to end, and with us all the other memory.
            log.warning("inode %d is gone, which the fd store was not told: %s", ino, error.message)

    def _fd(self, ino: Ino) -> int:
        try:
            return self._fds[ino]
        except KeyError:
            raise StaleInodeError(f"inode {ino} has no memory", hint="run guestmemfs fsck") from None

    def open_backing(self, ino: Ino) -> int:
        """See Region.open_backing: a copy."""
        with self._table:
            return os.dup(self._fd(ino))

    def discard(self, inode: Inode) -> None:
        """See Region.discard."""
        self._drop(inode.ino)

    def stat(self, inode: Inode) -> BackingStat:
        """See Region.stat."""
        with self._table:
            status = os.fstat(self._fd(inode.ino))
        return BackingStat(status.st_size, status.st_blocks * 512)

    def inventory(self) -> Iterator[Ino]:
        """See Region.inventory."""
        return iter(list(self._fds))

    def use(self) -> RegionUse:
        """See Region.use: what is being given back is free."""
        pending_bytes = self.freeing.pending_bytes
        whole = os.fstatvfs(self._mount_fd)
        used_bytes = (whole.f_blocks - whole.f_bfree) * whole.f_frsize
        used_bytes += self._retrieved_bytes() - pending_bytes
        return RegionUse(self.size_bytes, max(0, used_bytes))

    def _retrieved_bytes(self) -> int:
        return sum(os.fstat(self._fds[ino]).st_blocks * 512 for ino in list(self._retrieved))

    def resize(self, size_bytes: int) -> None:
        """See Region.resize."""
        self.use().require_fits(size_bytes)
        host_memory.require_size(size_bytes)
        mount.reconfigure(self._mount_fd, {"size": str(size_bytes)})
        self.size_bytes = size_bytes

    def backing_path(self, ino: Ino) -> str:
        """See BackingFiles.backing_path: a descriptor of this process."""
        return f"/proc/{os.getpid()}/fd/{self._fd(ino)}"


def create(store: FdStore, size_bytes: int, numa_node: int | None = None) -> dict[str, list[int]]:
    """Make the memory of a new region and put it into the store; returns the descriptors as received ones.

    Raises UnsupportedError without a store (the memory would die with the daemon), OutOfMemoryError.
    """
    if not store.present:
        raise UnsupportedError(
            "a memfd region needs an fd store to live in",
            hint="mount without --foreground, or as a systemd unit with FileDescriptorStoreMax=",
        )
    mount_fd = private_tmpfs.new(size_bytes, size_bytes, numa_node)
    store.store(MOUNT_NAME, mount_fd)
    return {MOUNT_NAME: [mount_fd]}


def _give_up(fd: int) -> None:
    """Now, and not when the store lets go of its copy: who removed a file may count on its room."""
    try:
        os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def file_fds(by_name: Mapping[str, list[int]]) -> dict[Ino, int]:
    """Inode number -> descriptor of its memory, from descriptors by their names in the store."""
    return {
        Ino(int(name.removeprefix(_FILE_PREFIX), 16)): fds[-1]
        for name, fds in by_name.items()
        if name.startswith(_FILE_PREFIX)
    }


def store_file(store: FdStore, ino: Ino, fd: int) -> None:
    """Put the memory of one inode into the store. Raises DaemonError."""
    store.store(_name(ino), fd)


def _name(ino: Ino) -> str:
    return f"{_FILE_PREFIX}{ino:x}"
