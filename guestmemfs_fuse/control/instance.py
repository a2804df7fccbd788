"""What the command line may ask of the daemon itself, beside the files that control/handlers.py serves.

Owns the instance's configuration while it is served: `resize` is the only thing that changes it. Built by the
daemon, which adds `restart`.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import trio

from guestmemfs_fuse.control.handlers import Args, Handlers, argument
from guestmemfs_fuse.control.server import Handler, Progress
from guestmemfs_fuse.engine import resizing
from guestmemfs_fuse.engine.engine import Engine
from guestmemfs_fuse.engine.storage import Storage
from guestmemfs_fuse.handover import fdnames
from guestmemfs_fuse.handover.fdstore import Notifier
from guestmemfs_fuse.handover.launch import holder_pid
from guestmemfs_fuse.handover.luo_preserve import Preservation
from guestmemfs_fuse.metadata.instance_config import InstanceConfig, Paths
from guestmemfs_fuse.region import memfd

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class InstanceHandlers:
    """ping, status, resize, entrust, preserve, thaw.

    stall_ns: how long callers waited when we took over, or None.
    """

    def __init__(
        self,
        config: InstanceConfig,
        paths: Paths,
        engine: Engine,
        storage: Storage,
        preservation: Preservation,
        notifier: Notifier,
        fuse_fd: int,
        relay_statistics: Callable[[], DataclassInstance],
    ) -> None:
        self._config = config
        self._paths = paths
        self._engine = engine
        self._storage = storage
        self._preservation = preservation
        self._notifier = notifier
        self._fuse_fd = fuse_fd
        self._relay_statistics = relay_statistics
        self._files = Handlers(engine)
        self.stall_ns: int | None = None

    def table(self) -> dict[str, Handler]:
        """Every command but `restart`, by name."""
        own = {"ping": self._ping, "status": self._status, "resize": self._resize, "entrust": self._entrust}
        return {**self._files.table(), **own, "preserve": self._preserve, "thaw": self._thaw}

    @property
    def _state(self) -> str:
        return "frozen" if self._engine.state.frozen else "serving"

    async def _ping(self, args: Args, progress: Progress) -> object:
        return {
            "pid": os.getpid(),
            "generation": self._engine.state.generation,
            "state": self._state,
            "stall_ns": self.stall_ns,
            "is_abandoned": self._notifier.present and not self._notifier.is_heard(),
            "passthrough": self._engine.kernel.has_passthrough,
        }

    async def _status(self, args: Args, progress: Progress) -> object:
        counters: dict[str, Any] = {
            **asdict(self._engine.statistics()),
            "relay": asdict(self._relay_statistics()),
        }
        return {
            "name": self._config.name,
            "mountpoint": self._config.mountpoint,
            "state": self._state,
            "daemon_pid": os.getpid(),
            "holder_pid": self._holder_pid(),
            "generation": self._engine.state.generation,
            "read_only": self._storage.store.read_only,
            **await self._files.report(),
            "counters": counters,
            "journal": asdict(self._storage.store.statistics()),
        }

    def _holder_pid(self) -> int | None:
        """Who keeps our descriptors: the holder, or systemd (PID 1); None when nobody does."""
        if not self._notifier.is_heard():
            return None
        return holder_pid(self._paths.state_dir) or 1

    async def _entrust(self, args: Args, progress: Progress) -> object:
        """{log, notify_socket} -> {}: give a new holder what the one that was killed had of us.

        It is sent from the event loop: a number that is closed meanwhile would be another file's.
        """
        log_fd = os.open(argument(args, "log", str), os.O_WRONLY | os.O_CLOEXEC)
        for standard in (1, 2):
            os.dup2(log_fd, standard)
        os.close(log_fd)
        os.environ["NOTIFY_SOCKET"] = argument(args, "notify_socket", str)  # a successor's, too
        self._notifier.move(os.environ["NOTIFY_SOCKET"])
        kept = {**self._storage.region.handover_fds(), **self._preservation.handover_fds()}
        for name, fds in {fdnames.FUSE: [self._fuse_fd], **kept}.items():
            self._notifier.store(name, *fds)
        await trio.to_thread.run_sync(self._notifier.barrier)
        self._notifier.ready()
        return {}

    async def _resize(self, args: Args, progress: Progress) -> object:
        """{size_bytes} -> {old_bytes, new_bytes}: the region's size, in whole blocks."""
        old_bytes = self._engine.state.region_bytes
        new_bytes = await resizing.resize_region(self._engine, argument(args, "size_bytes", int))
        self._config = resizing.save(self._config, new_bytes, self._paths.state_dir)
        return {"old_bytes": old_bytes, "new_bytes": new_bytes}

    async def _preserve(self, args: Args, progress: Progress) -> object:
        """{abort, by_store} -> {session, files, took_ms}: have the region carried by a kexec, or undo it."""
        if argument(args, "abort", bool):
            return await self._preservation.abort(self._engine)
        files = {int(ino): fd for ino, fd in memfd.file_fds(self._storage.region.handover_fds()).items()}
        by_store = args.get("by_store") is True
        return await self._preservation.preserve(self._engine, files, by_store=by_store)

    async def _thaw(self, args: Args, progress: Progress) -> object:
        """{} -> as control/handlers, unless a live update is under way."""
        self._preservation.require_thawable()
        return await self._files.thaw(args, progress)
