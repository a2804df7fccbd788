"""Before the kexec: have a frozen memfd region carried to the next kernel. In the daemon.

    preserve   freeze; every file and the manifest into one live update session; its fd into the fd store.
               Or, where systemd carries its fd store itself (by_store): the manifest into the fd store
    abort      close the session: the kernel lets go of all files; or take the manifest back. Thaw

The device is opened as late and closed as early as possible, since only one process can have it. The
session's fd must stay open until the kexec: it lies in the fd store, and with us. A file can be in one
session only, so there is none of ours where systemd makes one at the end of its shutdown.

Invariants: either everything is in the session or the session is closed and the instance is as it was;
while a session is there nothing thaws the instance (the kernel has frozen the sizes of its files); a daemon
that hands over to its successor has come to rest here first, and begins nothing any more.
Called by the daemon, for the operations `preserve` and `thaw`, and when it hands over.
"""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager

import trio

from guestmemfs_fuse.core.errors import InstanceBusyError, UnsupportedError, UsageError
from guestmemfs_fuse.engine.engine import Engine
from guestmemfs_fuse.handover import fdnames, luo
from guestmemfs_fuse.handover.fdstore import Notifier
from guestmemfs_fuse.handover.launch import holder_pid
from guestmemfs_fuse.handover.luo import Kernel, Manifest
from guestmemfs_fuse.metadata.files import DirectoryFiles
from guestmemfs_fuse.metadata.instance_config import InstanceConfig, Paths, current_boot_id

_SYSTEMD_SESSION = "systemd"  # of the manager itself: what it carries of all its units
_NO_DEVICE = "boot a kernel with CONFIG_LIVEUPDATE and CONFIG_LIVEUPDATE_MEMFD, with kho=on liveupdate=on"


class Preservation:
    """The live update session of one instance, if there is one. Owns our copy of its fd."""

    def __init__(
        self,
        config: InstanceConfig,
        paths: Paths,
        store: Notifier,
        received: Mapping[str, Sequence[int]] | None = None,
        kernel: Kernel | None = None,
    ) -> None:
        """received: what the fd store or the predecessor gave us, by name. kernel: for tests."""
        self._config = config
        self._paths = paths
        self._store = store
        # Under one of two names: a session, or the manifest of what systemd carries.
        self._kept: tuple[str, int] | None = None
        for name in (fdnames.LIVEUPDATE, fdnames.CARRIED):
            for fd in (received or {}).get(name, ()):
                if name == fdnames.CARRIED and _is_of_earlier_boot(fd):
                    os.close(fd)  # of the kexec that brought us here
                else:
                    self._kept = name, fd
        self._kernel = kernel
        self._changing = trio.Lock()

    @property
    def is_preserved(self) -> bool:
        """Whether everything is ready for the kexec."""
        return self._kept is not None

    def handover_fds(self) -> dict[str, list[int]]:
        """What a successor needs, once we are at rest: a copy given earlier would outlive an abort."""
        return {} if self._kept is None else {self._kept[0]: [self._kept[1]]}

    async def come_to_rest(self) -> None:
        """Wait for what is under way and refuse everything else, until `go_on` (same task)."""
        await self._changing.acquire()

    def go_on(self) -> None:
        """The successor died: we are in charge again."""
        self._changing.release()

    def step_aside(self) -> None:
        """The successor and the store have theirs: an abort must not wait for our end to take effect."""
        kept, self._kept = self._kept, None
        if kept is not None:
            os.close(kept[1])

    @asynccontextmanager
    async def _alone(self) -> AsyncGenerator[None, None]:
        try:
            self._changing.acquire_nowait()
        except trio.WouldBlock:
            raise InstanceBusyError(
                f"instance {self._config.name} is being preserved, or restarted", hint="try again"
            ) from None
        try:
            yield
        finally:
            self._changing.release()

    def require_thawable(self) -> None:
        """Raise InstanceBusyError while preserved."""
        if self.is_preserved:
            raise InstanceBusyError(
                f"instance {self._config.name} is preserved for a live update",
                hint=f"`guestmemfs liveupdate preserve {self._config.name} --abort` undoes that",
            )

    async def preserve(
        self, engine: Engine, files: Mapping[int, int], *, by_store: bool = False
    ) -> dict[str, object]:
        """Have everything carried. files: inode number -> fd of its memory; by_store: systemd carries them.

        Raises UnsupportedError (no LUO, other kind, somebody else keeps the fds), InstanceBusyError
        (preserved already), OSError when the kernel refuses a file; then everything is as it was.
        """
        async with self._alone():
            self._require_possible(by_store)
            began_s = trio.current_time()
            was_frozen = engine.state.frozen
            await engine.freeze()
            try:
                manifest = self._manifest(engine, files, thaw=not was_frozen)
                if by_store:
                    await trio.to_thread.run_sync(self._store_manifest, manifest)
                else:
                    await trio.to_thread.run_sync(self._fill_session, manifest, files)
            except BaseException:
                if not was_frozen:
                    engine.thaw()
                raise
            took_ms = (trio.current_time() - began_s) * 1000
        session = _SYSTEMD_SESSION if by_store else luo.session_name(self._config.name)
        return {"session": session, "files": len(files), "took_ms": took_ms}

    async def abort(self, engine: Engine) -> dict[str, object]:
        """Let go of the session and thaw. Raises UsageError when there is none."""
        async with self._alone():
            if self._kept is None:
                raise UsageError(f"instance {self._config.name} is not preserved")
            name, fd = self._kept
            self._store.remove(name)
            await trio.to_thread.run_sync(self._store.barrier)
            self._kept = None
            # The last copy: of a session's files the kernel lets go now.
            await trio.to_thread.run_sync(os.close, fd)
            engine.thaw()
        return {"session": None}

    def _require_possible(self, by_store: bool) -> None:
        if self._config.kind != "memfd":
            raise UnsupportedError(
                f"a {self._config.kind} region cannot be carried across kexec by the kernel",
                hint="dax regions need nobody for it; use --region memfd otherwise",
            )
        self.require_thawable()
        has_holder = holder_pid(self._paths.state_dir) is not None
        if by_store and has_holder:
            raise UsageError("a holder keeps this instance's descriptors, not systemd")
        if not by_store and not has_holder:
            # systemd ends its services before a kexec, and with them every session.
            raise UnsupportedError(
                "this instance's descriptors are kept by systemd",
                hint="mount it without a unit to carry it with a session of its own",
            )

    def _manifest(self, engine: Engine, files: Mapping[int, int], *, thaw: bool) -> Manifest:
        directory = DirectoryFiles(self._paths.metadata)
        try:
            metadata = {name: directory.read(name) for name in directory.names()}
        finally:
            directory.close()
        with open(self._paths.config, "rb") as config:
            text = config.read()
        return Manifest(
            name=self._config.name,
            uuid_hex=self._config.uuid_hex,
            boot_id=current_boot_id(),
            generation=engine.state.generation,
            thaw=thaw,
            config=text,
            metadata=metadata,
            file_sizes={ino: os.fstat(fd).st_size for ino, fd in files.items()},
        )

    def _fill_session(self, manifest: Manifest, files: Mapping[int, int]) -> None:
        """In a thread: pins all memory, and allocates what is missing in it."""
        kernel = self._kernel or _real_kernel()
        session_fd = self._new_session(kernel)
        try:
            manifest_fd = _manifest_file(manifest)
            try:
                kernel.preserve_fd(session_fd, manifest_fd, luo.MANIFEST_TOKEN)
            finally:
                os.close(manifest_fd)  # the session has its own reference
            for ino, fd in files.items():
                kernel.preserve_fd(session_fd, fd, ino)
            self._store.store(fdnames.LIVEUPDATE, session_fd)
            self._store.barrier()
        except BaseException:
            self._store.remove(fdnames.LIVEUPDATE)
            os.close(session_fd)
            raise
        self._kept = fdnames.LIVEUPDATE, session_fd

    def _store_manifest(self, manifest: Manifest) -> None:
        """In a thread. The files are in the store already, under the names by which they come back."""
        fd = _manifest_file(manifest)
        try:
            self._store.store(fdnames.CARRIED, fd)
            self._store.barrier()
        except BaseException:
            self._store.remove(fdnames.CARRIED)
            os.close(fd)
            raise
        self._kept = fdnames.CARRIED, fd

    def _new_session(self, kernel: Kernel) -> int:
        try:
            device_fd = kernel.open_device()
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENODEV, errno.ENXIO):
                raise UnsupportedError(
                    "this kernel has no live update orchestrator", hint=_NO_DEVICE
                ) from error
            if error.errno == errno.EBUSY:
                raise InstanceBusyError("/dev/liveupdate is in use", hint="try again") from error
            raise
        try:
            return kernel.create_session(device_fd, luo.session_name(self._config.name))
        finally:
            os.close(device_fd)


def _is_of_earlier_boot(manifest_fd: int) -> bool:
    raw = os.pread(manifest_fd, os.fstat(manifest_fd).st_size, 0)
    return luo.decode(raw).boot_id != current_boot_id()


def _manifest_file(manifest: Manifest) -> int:
    raw = luo.encode(manifest)
    fd = os.memfd_create("guestmemfs-manifest", os.MFD_CLOEXEC)
    try:
        view = memoryview(raw)
        while view:
            view = view[os.write(fd, view) :]
    except BaseException:
        os.close(fd)
        raise
    return fd


def _real_kernel() -> Kernel:
    from guestmemfs_fuse.linux import liveupdate  # in the life of most daemons never needed

    return liveupdate
