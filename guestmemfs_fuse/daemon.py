"""The daemon: builds everything, serves one instance until it is unmounted or replaced.

`python -m guestmemfs_fuse.daemon STATE_DIR`, started by the holder, by systemd or by a predecessor, which
look the same from here: descriptors come by LISTEN_FDS, news go to NOTIFY_SOCKET.

Run states: STARTING -> SERVING -> LEAVING. Exit status: 0 when the mount is gone (region and metadata stay)
or a successor has taken over; 75 (EX_TEMPFAIL) after SIGTERM: the connection is in the store and
somebody is expected to start us again; an ExitCode when starting failed.

Invariants: only the process that holds STATE_DIR/lock touches metadata; nothing in here touches the
mountpoint while it is mounted; no path lets go of guest memory.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from enum import Enum
from typing import Any, Final

import pyfuse3
import trio

from guestmemfs_fuse.control.handlers import Args, Handlers
from guestmemfs_fuse.control.server import ControlServer, Progress, adopt_listener, bind_listener
from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.errors import GuestmemfsError, InstanceBusyError
from guestmemfs_fuse.engine.engine import Engine
from guestmemfs_fuse.engine.storage import Storage, open_storage
from guestmemfs_fuse.fuse import session
from guestmemfs_fuse.fuse.connection import Connection, connect
from guestmemfs_fuse.fuse.engine_hooks import EngineHooks
from guestmemfs_fuse.fuse.kernel import FuseKernel
from guestmemfs_fuse.fuse.operations import GuestOperations
from guestmemfs_fuse.fuse.relay import Relay
from guestmemfs_fuse.handover import fdnames
from guestmemfs_fuse.handover.fdstore import Notifier, received_fds
from guestmemfs_fuse.linux import mount
from guestmemfs_fuse.metadata.instance_config import InstanceConfig, Paths

log = logging.getLogger("guestmemfs")

EXIT_COME_BACK: Final = 75
"""EX_TEMPFAIL of sysexits(3): told to go, to be started again with the stored descriptors."""

_DRAIN_S: Final = 10.0
_LOCK_S: Final = 10.0
_MAX_TASKS: Final = 2048
"""Handlers at once in pyfuse3: a long allocation occupies one."""

Fds = dict[str, list[int]]


class RunState(Enum):
    """Where the daemon stands."""

    STARTING = "starting"
    SERVING = "serving"
    LEAVING = "leaving"


class Daemon:
    """One daemon process: build it with the instance's lock held, then `await run()`."""

    def __init__(
        self, config: InstanceConfig, paths: Paths, notifier: Notifier, fds: Fds, *, clean: bool
    ) -> None:
        """clean: a predecessor left nothing half done; fds: what the store or the predecessor gave us."""
        self._config = config
        self._paths = paths
        self._notifier = notifier
        self._fds = fds
        self._clean = clean
        self._run_state = RunState.STARTING
        self._leave = trio.Event()
        self._exit_status = 0
        self._cleanup = ExitStack()

    async def run(self) -> int:
        """Serve until the mount is gone or a successor took over; returns the exit status.

        Raises GuestmemfsError or OSError when it cannot start; then what this start made is undone.
        """
        with self._cleanup:
            self._storage = storage = open_storage(self._config, self._paths, self._fds, self._notifier)
            self._cleanup.callback(storage.close)
            stored = self._fds.get(fdnames.FUSE, [])
            self._connection = connect(self._config.mountpoint, self._config.name, stored, storage.state)
            self._cleanup.callback(os.close, self._connection.fd)
            self._cleanup.callback(self._unmount_unless_served)
            self._build(storage, self._connection)
            await self._serve(storage)
            return self._exit_status

    def _build(self, storage: Storage, connection: Connection) -> None:
        self._engine = Engine(storage.state, storage.store, storage.region, FuseKernel(connection.fd))
        self._engine.ledger.on_commit = storage.note_commit
        self._relay = Relay(connection.fd, EngineHooks(self._engine), self.session_started)
        self._cleanup.callback(self._relay.close)
        self._pump = not session.attach(self._relay)
        operations = GuestOperations(self._engine, self._relay.find_request)
        pyfuse3.init(operations, self._relay.session_path, {"fsname=guestmemfs"})
        self._cleanup.callback(pyfuse3.close, unmount=False)
        listeners = self._fds.get(fdnames.CONTROL, [])
        self._listener = adopt_listener(listeners[0]) if listeners else bind_listener(self._paths.state_dir)
        self._cleanup.callback(self._listener.close)

    async def _serve(self, storage: Storage) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._relay_until_it_ends)
            nursery.start_soon(pyfuse3.main, 1, _MAX_TASKS)
            await self._begin_session()
            handlers = Handlers(self._engine)
            table = {**handlers.table(), "ping": self._ping, "status": self._status}
            self._handlers = handlers
            nursery.start_soon(ControlServer(self._listener, table).serve)
            nursery.start_soon(self._obey_signals)
            nursery.start_soon(storage.compact_when_due)
            if not self._clean:
                nursery.start_soon(self._engine.sweep)
            self._run_state = RunState.SERVING
            self._notifier.ready()
            log.info("serving %s, generation %d", self._config.mountpoint, self._engine.state.generation)
            await self._leave.wait()
            self._run_state = RunState.LEAVING
            nursery.cancel_scope.cancel()

    async def _begin_session(self) -> None:
        """Answer or replay INIT. The store has the connection before anybody's request is answered."""
        connection = self._connection
        self._engine.ledger.commit(cmd.StartDaemon())
        if connection.stored_init is not None:
            if not self._clean:
                self._engine.recover()
            await self._relay.resume(connection.stored_init)
            return
        if self._notifier.present:
            self._notifier.store(fdnames.FUSE, connection.fd)
            self._notifier.barrier()
        await self._relay.start_fresh()

    def session_started(self, init_request: bytes) -> None:
        """The kernel's INIT is about to be answered: from now on the connection can be resumed."""
        self._engine.ledger.commit(cmd.StartSession(init_request, self._connection.device))

    async def _relay_until_it_ends(self) -> None:
        ended = await self._relay.run(pump=self._pump)
        log.info("the mount is gone (%s)", ended.value)
        self._notifier.stopping()
        self._leave.set()

    def _unmount_unless_served(self) -> None:
        """A mount that never served must not stay behind when starting fails."""
        if self._run_state is RunState.STARTING and self._connection.fresh:
            mount.umount(self._config.mountpoint, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)

    async def _obey_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                log.info("told to go by %s; the connection stays in the store", signal.Signals(number).name)
                await self._relay.drain(_DRAIN_S)
                self._exit_status = EXIT_COME_BACK
                self._leave.set()

    # -- operations about the daemon itself -----------------------------------------------------------

    async def _ping(self, args: Args, progress: Progress) -> object:
        state = self._engine.state
        return {
            "pid": os.getpid(),
            "generation": state.generation,
            "state": "frozen" if state.frozen else "serving",
        }

    async def _status(self, args: Args, progress: Progress) -> object:
        state, relay = self._engine.state, self._relay.statistics()
        return {
            "name": self._config.name,
            "mountpoint": self._config.mountpoint,
            "state": "frozen" if state.frozen else "serving",
            "daemon_pid": os.getpid(),
            "holder_pid": os.getppid() if self._notifier.present else None,
            "generation": state.generation,
            **await self._handlers.report(),
            "counters": {**asdict(self._engine.statistics()), "relay": _plain(asdict(relay))},
            "journal": asdict(self._storage.store.statistics()),
        }


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Statistics as msgpack can pack them: flags become numbers."""
    return {key: int(value) if isinstance(value, int) else value for key, value in values.items()}


async def _locked(paths: Paths, name: str) -> int:
    """The instance's lock. A dying daemon may hold it for a moment; one that lives is an error."""
    fd = os.open(paths.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = trio.current_time() + _LOCK_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            if trio.current_time() > deadline:
                os.close(fd)
                message = f"another daemon serves {name}"
                raise InstanceBusyError(message, hint="guestmemfs status shows it") from None
        await trio.sleep(0.002)


async def serve(state_dir: str, notifier: Notifier, fds: Fds) -> int:
    """Take the lock and serve the instance of `state_dir`; returns the exit status."""
    paths, config = Paths(state_dir), InstanceConfig.load(state_dir)
    lock_fd = await _locked(paths, config.name)
    try:
        return await Daemon(config, paths, notifier, fds, clean=False).run()
    finally:
        os.close(lock_fd)


def main(argv: list[str]) -> int:
    """Entry point: `python -m guestmemfs_fuse.daemon STATE_DIR`."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    notifier = Notifier.from_environment()
    try:
        return trio.run(serve, argv[1], notifier, received_fds())
    except GuestmemfsError as error:
        notifier.failed(error)
        log.error("%s%s", error.message, f" ({error.hint})" if error.hint else "")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv))
