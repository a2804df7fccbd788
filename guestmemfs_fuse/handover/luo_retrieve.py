"""After the kexec: bring a memfd region back from its live update session. A program that the holder starts.

Run as `python -P -m guestmemfs_fuse.handover.luo_retrieve STATE_DIR NAME` in the daemon's place. When it ends
well the instance is like one that was unmounted: its descriptors in the store, its configuration and
metadata in STATE_DIR. What it got so far lies in the store from the first moment, so it can be run again
after any failure, SIGKILL included.

Invariants: the session's fd is stored before anything is retrieved, and let go of only after `finish`;
`finish` only when every file is in the store and configuration, metadata, UUID, sizes and generation were
checked; instance.json, which makes it an instance, is written last. Called by cli/retrieving.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Mapping

from guestmemfs_fuse.core.errors import (
    DaemonError,
    GuestmemfsError,
    InstanceBusyError,
    UnknownTargetError,
    UnsupportedError,
)
from guestmemfs_fuse.core.types import Ino
from guestmemfs_fuse.handover import fdnames, luo, luo_unpack
from guestmemfs_fuse.handover.fdstore import Notifier, received_fds
from guestmemfs_fuse.handover.luo import Kernel, Manifest
from guestmemfs_fuse.metadata.instance_config import Paths
from guestmemfs_fuse.region import memfd

log = logging.getLogger("guestmemfs")

Fds = Mapping[str, list[int]]


class Retrieval:
    """One attempt. received: what an earlier one has stored already."""

    def __init__(self, state_dir: str, name: str, received: Fds, store: Notifier, kernel: Kernel) -> None:
        self._paths = Paths(state_dir)
        self._name = name
        self._received = received
        self._store = store
        self._kernel = kernel

    def run(self) -> None:
        """Do everything. Raises UnknownTargetError when there is no such session, MetadataError, OSError."""
        session_fd = self._session()
        manifest = self._manifest(session_fd)
        config = luo_unpack.unpack(manifest, self._name, self._paths)
        files = self._files(session_fd, manifest)
        if memfd.MOUNT_NAME not in self._received:
            memfd.create(self._store, config.size_bytes, config.numa_node)
        self._store.barrier()
        luo_unpack.make_huge(files)
        config.save(self._paths.state_dir)
        self._kernel.finish(session_fd)
        log.info("%d files of %s came through the kexec", len(files), self._name)

    def let_go(self) -> None:
        """The session is finished and the start succeeded: nobody needs its fd any more."""
        self._store.remove(fdnames.RETRIEVING)
        self._store.remove(fdnames.MANIFEST)

    def _session(self) -> int:
        if fds := self._received.get(fdnames.RETRIEVING):
            return fds[-1]
        device_fd = self._open_device()
        try:
            session_fd = self._kernel.retrieve_session(device_fd, luo.session_name(self._name))
        except OSError as error:
            if error.errno == errno.ENOENT:
                raise UnknownTargetError(f"no live update session of instance {self._name}") from error
            if error.errno == errno.EINVAL:
                raise InstanceBusyError(
                    f"the live update session of instance {self._name} was retrieved by somebody else"
                ) from error
            raise
        finally:
            os.close(device_fd)
        self._keep(fdnames.RETRIEVING, session_fd)
        return session_fd

    def _keep(self, name: str, fd: int) -> None:
        self._store.store(name, fd)
        self._store.barrier()

    def _open_device(self) -> int:
        try:
            return self._kernel.open_device()
        except OSError as error:
            if error.errno == errno.EBUSY:
                raise InstanceBusyError("/dev/liveupdate is in use", hint="try again") from error
            raise UnsupportedError(f"/dev/liveupdate cannot be opened: {error.strerror}") from error

    def _manifest(self, session_fd: int) -> Manifest:
        if fds := self._received.get(fdnames.MANIFEST):
            fd = fds[-1]
        else:
            fd = self._kernel.retrieve_fd(session_fd, luo.MANIFEST_TOKEN)
            self._keep(fdnames.MANIFEST, fd)
        return luo_unpack.read_manifest(fd)

    # -- memory ----------------------------------------------------------------------------------------

    def _files(self, session_fd: int, manifest: Manifest) -> dict[Ino, int]:
        found = memfd.file_fds(dict(self._received))
        for number in manifest.file_sizes:
            ino = Ino(number)
            if ino not in found:
                found[ino] = self._retrieve_file(session_fd, ino)
                memfd.store_file(self._store, ino, found[ino])
            luo.check_file(manifest, number, os.fstat(found[ino]).st_size)
        return found

    def _retrieve_file(self, session_fd: int, ino: Ino) -> int:
        try:
            return self._kernel.retrieve_fd(session_fd, ino)
        except OSError as error:
            # The kernel tries once and remembers (luo_retrieve_file()), but what else there is stays.
            raise DaemonError(
                f"the kernel does not give back the file of inode {ino}: {error.strerror}",
                hint=f"everything else is kept; `guestmemfs liveupdate retrieve {self._name}` tries again, "
                f"`guestmemfs destroy {self._name} --yes --force` gives all of it up",
            ) from error


def main(argv: list[str]) -> int:
    """STATE_DIR NAME: bring the instance back; returns the exit status."""
    _program, state_dir, name = argv
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    from guestmemfs_fuse.linux import liveupdate

    notifier = Notifier.from_environment()
    retrieval = Retrieval(state_dir, name, received_fds(), notifier, liveupdate)
    try:
        retrieval.run()
        # In this order: from READY on the store keeps what is in it whatever happens to us, and from STOPPING
        # on it lets the daemon that is started next wait for our end.
        notifier.stopping()
        notifier.ready("retrieved")
        retrieval.let_go()
    except GuestmemfsError as error:
        notifier.failed(error)
        log.error("%s", error)
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv))
