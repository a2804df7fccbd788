"""The daemon: builds everything, serves one instance until it is unmounted or replaced.

`python -m guestmemfs_fuse.daemon STATE_DIR`, started by the holder, by systemd or by a predecessor, which
look the same from here: descriptors come by LISTEN_FDS, news go to NOTIFY_SOCKET.

Run states: STARTING -> SERVING -> LEAVING. Exit status: 0 when the mount is gone (region and metadata stay)
or a successor has taken over; 75 (EX_TEMPFAIL) after SIGTERM: the connection is in the store and
somebody is expected to start us again (without a store we unmount); an ExitCode when starting failed.

Invariants: only the process that holds STATE_DIR/lock writes metadata; nothing in here touches the
mountpoint while it is mounted; no path lets go of guest memory.
"""

from __future__ import annotations

import faulthandler
import logging
import os
import signal
import sys
import time
from contextlib import ExitStack, suppress
from enum import Enum
from typing import Final

from guestmemfs_fuse.linux import light_imports  # before trio and pyfuse3, see there

# isort: split
import pyfuse3
import trio

from guestmemfs_fuse.control import health
from guestmemfs_fuse.control.handlers import Args
from guestmemfs_fuse.control.instance import InstanceHandlers
from guestmemfs_fuse.control.server import ControlServer, Progress, adopt_listener, bind_listener
from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.errors import DaemonError, FsError, GuestmemfsError, InstanceBusyError
from guestmemfs_fuse.engine import resizing, short_collections
from guestmemfs_fuse.engine.engine import Engine
from guestmemfs_fuse.engine.instance_lock import InstanceLock
from guestmemfs_fuse.engine.storage import open_storage, read_ahead
from guestmemfs_fuse.fuse import device, session
from guestmemfs_fuse.fuse.connection import Connection, MountGoneError, connect, mounted_device
from guestmemfs_fuse.fuse.direct import DirectCalls
from guestmemfs_fuse.fuse.engine_hooks import EngineHooks
from guestmemfs_fuse.fuse.kernel import FuseKernel
from guestmemfs_fuse.fuse.operations import GuestOperations
from guestmemfs_fuse.fuse.phase import Ended
from guestmemfs_fuse.fuse.relay import Relay
from guestmemfs_fuse.handover import fdnames, journal, passed_claim
from guestmemfs_fuse.handover.fdstore import Notifier, received_fds, watchdog_interval_s
from guestmemfs_fuse.handover.launch import daemon_argv
from guestmemfs_fuse.handover.luo_preserve import Preservation
from guestmemfs_fuse.handover.restart_policy import EXIT_COME_BACK
from guestmemfs_fuse.handover.successor import Handover, Successor, Word
from guestmemfs_fuse.linux import mount
from guestmemfs_fuse.metadata.chain import Chain
from guestmemfs_fuse.metadata.instance_config import InstanceConfig, Paths

light_imports.done()

log = logging.getLogger("guestmemfs")

_DRAIN_S: Final = 10.0
_WARM_S: Final = 20.0
_LAST_REPLIES_S: Final = 5.0
_MAX_TASKS: Final = 2048
"""Handlers at once in pyfuse3: a long allocation occupies one."""

_SWITCH_S: Final = 0.0005
"""For how long a thread (status, fsck) may keep the interpreter while callers wait; Python's own is 5 ms."""

Fds = dict[str, list[int]]


class RunState(Enum):
    """Where the daemon stands."""

    STARTING = "starting"
    SERVING = "serving"
    LEAVING = "leaving"


class Daemon:
    """One daemon process: build it with the instance's lock held, then `await run()`."""

    def __init__(
        self,
        config: InstanceConfig,
        paths: Paths,
        lock: InstanceLock,
        notifier: Notifier,
        fds: Fds,
        word: Word | None = None,
    ) -> None:
        """fds: what the store or the predecessor gave us; word: what a predecessor said, if there was one."""
        self._config = config
        self._paths = paths
        self._lock = lock
        self._notifier = notifier
        self._fds = fds
        self._word = word
        self._run_state = RunState.STARTING
        self._leave = trio.Event()
        self._handing_over = False
        self._exit_status = 0
        self._cleanup = ExitStack()
        self._background = trio.CancelScope()

    async def run(self, ahead: Chain | None = None) -> int:
        """Serve until the mount is gone or a successor took over; returns the exit status.

        ahead: metadata that was read while the predecessor still served. Raises GuestmemfsError or OSError
        when it cannot start; then what this start made is undone.
        """
        with self._cleanup:
            storage = open_storage(self._config, self._paths, self._fds, self._notifier, ahead)
            self._storage = storage
            self._preservation = Preservation(self._config, self._paths, self._notifier, self._fds)
            short_collections.keep_short()
            sys.setswitchinterval(_SWITCH_S)
            self._cleanup.callback(storage.close)
            self._config = resizing.settle(self._config, storage.state, storage.region, self._paths.state_dir)
            stored = self._fds.get(fdnames.FUSE, [])
            try:
                self._connection = connect(self._config.mountpoint, self._config.name, stored, storage.state)
            except MountGoneError as error:
                log.info("%s: nothing is left to serve", error.message)
                self._notifier.stopping()
                return 0
            self._cleanup.callback(os.close, self._connection.fd)
            self._cleanup.callback(self._unmount_unless_served)
            self._build(self._connection)
            await self._serve()
            return self._exit_status

    def _build(self, connection: Connection) -> None:
        storage = self._storage
        kernel = FuseKernel(connection.fd, lambda: self._relay.init_flags)
        self._engine = Engine(storage.state, storage.store, storage.region, kernel)
        self._engine.ledger.on_commit = storage.note_commit
        direct = DirectCalls(self._engine).by_opcode
        self._relay = Relay(connection.fd, EngineHooks(self._engine), self._session_started, direct)
        self._cleanup.callback(self._relay.close)
        self._pump = not session.attach(self._relay)
        if self._pump:
            log.warning("this pyfuse3 cannot be attached to; every request costs more than twice as much")
        operations = GuestOperations(self._engine, self._relay.find_request)
        pyfuse3.init(operations, self._relay.session_path, {"fsname=guestmemfs"})
        self._cleanup.callback(pyfuse3.close, unmount=False)
        listeners = self._fds.get(fdnames.CONTROL, [])
        self._listener = adopt_listener(listeners[0]) if listeners else bind_listener(self._paths.state_dir)
        self._cleanup.callback(self._listener.close)
        self._handlers = InstanceHandlers(
            self._config,
            self._paths,
            self._engine,
            storage,
            self._preservation,
            self._notifier,
            connection.fd,
            self._relay.statistics,
        )
        self._server = ControlServer(self._listener, {**self._handlers.table(), "restart": self._restart})

    async def _serve(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._relay_until_it_ends)
            nursery.start_soon(pyfuse3.main, 1, _MAX_TASKS)
            await self._begin_session(self._connection)
            nursery.start_soon(self._server.serve)
            nursery.start_soon(self._obey_signals)
            nursery.start_soon(self._in_background)
            nursery.start_soon(self._engine.punches.run)
            nursery.start_soon(self._feed_watchdog)
            self._run_state = RunState.SERVING
            if self._word is not None:
                self._handlers.stall_ns = time.monotonic_ns() - self._word.drained_ns
            self._notifier.ready()
            log.info("serving %s, generation %d", self._config.mountpoint, self._engine.state.generation)
            if not self._engine.kernel.has_passthrough:
                log.warning("this kernel has no FUSE passthrough: start VMMs with `guestmemfs run`")
            await self._leave.wait()
            self._run_state = RunState.LEAVING
            nursery.cancel_scope.cancel()

    async def _begin_session(self, connection: Connection) -> None:
        """Answer or replay INIT. The store has the connection before anybody's request is answered."""
        try:
            self._engine.ledger.commit(cmd.StartDaemon())
        except FsError as error:
            # Only a count. Callers wait, and those that change nothing can be served.
            log.warning("this start is not counted: %s", error.message)
        if connection.stored_init is not None:
            if not self._is_clean:
                self._engine.recover()
            await self._relay.resume(connection.stored_init)
            return
        if self._notifier.present:
            if fdnames.FUSE in self._fds:
                self._notifier.remove(fdnames.FUSE)  # of a mount that is gone
            self._notifier.store(fdnames.FUSE, connection.fd)
            self._notifier.barrier()
        await self._relay.start_fresh()

    @property
    def _is_clean(self) -> bool:
        return self._word is not None and self._word.clean

    def _session_started(self, init_request: bytes) -> None:
        """The kernel's INIT is about to be answered: from now on the connection can be resumed."""
        self._engine.ledger.commit(cmd.StartSession(init_request, self._connection.device))

    async def _relay_until_it_ends(self) -> None:
        ended = await self._relay.run(pump=self._pump)
        log.info("the mount is gone (%s)", ended.value)
        self._engine.memory.interrupt_all()  # nobody is answered any more
        if ended is Ended.UNMOUNTED:
            await self._engine.orphans.caught_up()
            self._engine.ledger.commit(cmd.EndSession())
        self._notifier.stopping()
        with suppress(DaemonError):
            # systemd may keep what is stored beyond a stop (FileDescriptorStorePreserve=).
            self._notifier.remove(fdnames.FUSE)
        self._leave.set()

    def _unmount_unless_served(self) -> None:
        """A mount that never served must not stay behind when starting fails."""
        if self._run_state is RunState.STARTING and self._connection.fresh:
            mount.umount(self._config.mountpoint, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)

    async def _in_background(self) -> None:
        """What can be stopped at any moment: put right what a crash left, fold the journal."""
        with self._background:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._engine.orphans.run)
                nursery.start_soon(self._engine.poison.look)
                if self._is_clean:
                    self._engine.swept.set()
                else:
                    await self._engine.sweep()
                await self._storage.compact_when_due()

    async def _feed_watchdog(self) -> None:
        """Only where somebody waits for it (WatchdogSec= of the unit)."""
        interval_s = watchdog_interval_s(os.environ, os.getpid())
        if interval_s is not None:
            await health.feed(interval_s, self._examine, self._notifier.watchdog)

    async def _examine(self, timeout_s: float) -> str | None:
        """Why we are not well: what a command would see, and what callers on the mount do."""
        relay, engine = self._relay.statistics(), self._engine.statistics()
        limit_s = timeout_s * health.PER_INTERVAL
        problem = health.unhealthy(relay.oldest_in_flight_ns, engine.changes_under_way, limit_s)
        return problem or await health.answers(self._paths.control_sock, timeout_s)

    async def _obey_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                if not device.is_connected(self._connection.fd):
                    log.info("told to go when the mount is gone already")
                    return  # the relay sees its end as well, and ends us as after any unmount
                by = signal.Signals(number).name
                if self._notifier.present:
                    log.info("told to go by %s; the connection stays in the store", by)
                    self._exit_status = EXIT_COME_BACK
                else:
                    log.info("told to go by %s; nobody keeps the connection: unmounting", by)
                    await trio.to_thread.run_sync(self._detach)  # which may ask us something
                    if not device.is_connected(self._connection.fd):
                        return
                await self._relay.drain(_DRAIN_S)
                self._leave.set()

    def _detach(self) -> None:
        """Take our mount out of the tree, used or not: what is mapped stays mapped."""
        if mounted_device(self._config.mountpoint, self._config.name) == self._connection.device:
            mount.umount(self._config.mountpoint, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)

    # -- being replaced -----------------------------------------------------------

    async def _restart(self, args: Args, progress: Progress) -> object:
        """{} -> {successor_pid}, once it is ready to take over; until then we go on serving."""
        if self._handing_over:
            raise InstanceBusyError("a restart is under way already")
        self._handing_over = True
        try:
            return {"successor_pid": await self._nursery.start(self._hand_over)}
        except GuestmemfsError:
            self._handing_over = False
            raise

    async def _hand_over(self, task_status: trio.TaskStatus[int]) -> None:
        fds: Fds = {
            fdnames.FUSE: [self._connection.fd],
            fdnames.CONTROL: [self._listener.fileno()],
        }
        # The watchdog is the main process's, whoever that is: no number of ours.
        env = {name: value for name, value in os.environ.items() if name != "WATCHDOG_PID"}
        async with Successor.start(daemon_argv(self._paths.state_dir), fds, env) as successor:
            await successor.warm(_WARM_S)
            task_status.started(successor.pid)
            await trio.to_thread.run_sync(self._storage.region.freeing.wait)  # else callers would, below
            await self._server.finish(_LAST_REPLIES_S)
            await self._preservation.come_to_rest()
            word = await self._stop_serving()
            try:
                # Only now: files, and with them descriptors, came and went while it got ready.
                region_fds = self._storage.region.handover_fds()
                await successor.give({**region_fds, **self._preservation.handover_fds()})
            except DaemonError as error:
                log.error("%s", error.message)
                self._go_on()
                return
            try:
                await self._step_aside(successor, word)
            except DaemonError as error:
                log.error("%s; coming back", error.message)
                self._exit_status = EXIT_COME_BACK
            self._leave.set()

    def _go_on(self) -> None:
        """The successor died before anything was given up. Who was muted is answered by the next daemon."""
        if self._relay.muted:
            self._exit_status = EXIT_COME_BACK
            self._leave.set()
            return
        self._handing_over = False
        self._preservation.go_on()
        self._server.accept_again()
        self._engine.gate.open()
        self._relay.undrain()

    async def _stop_serving(self) -> Word:
        """From here to `go` callers wait. What does not end in time is stopped and left to the successor."""
        drained_ns = time.monotonic_ns()
        left = await self._relay.drain(_DRAIN_S)
        if left:
            self._relay.mute()
        await self._engine.come_to_rest(interrupt=left > 0)
        clean = left == 0 and self._engine.swept.is_set() and not self._engine.orphans.behind
        return Word(clean=clean, drained_ns=drained_ns)

    async def _step_aside(self, successor: Successor, word: Word) -> None:
        """Afterwards nothing of ours may touch the instance. Raises DaemonError: the successor is dead."""
        self._background.cancel()
        self._storage.stop_writing()
        self._preservation.step_aside()
        self._notifier.main_pid(successor.pid)
        self._lock.release()
        successor.go(word)
        with trio.move_on_after(_LAST_REPLIES_S):
            await self._server.all_answered()


async def serve(state_dir: str, notifier: Notifier, fds: Fds) -> int:
    """Take the lock, at a predecessor's word if there is one, and serve; returns the exit status."""
    paths, config = Paths(state_dir), InstanceConfig.load(state_dir)
    if fdnames.RETRIEVING in fds:
        raise DaemonError(
            f"instance {config.name} is not all back from its live update session",
            hint=f"`guestmemfs liveupdate retrieve {config.name}` goes on with that",
        )
    handover, word, ahead = Handover.from_received(fds), None, None
    if handover is not None:
        ahead = read_ahead(config, paths)
        handover.say_warm()
        word = handover.await_go()
        if word is None:
            return 0
        fds.update(handover.given)
    lock = await InstanceLock.acquire(paths.lock, config.name)
    passed_claim.release(os.environ, state_dir)
    try:
        return await Daemon(config, paths, lock, notifier, fds, word).run(ahead)
    finally:
        lock.release()


def main(argv: list[str]) -> int:
    """Entry point: `python -m guestmemfs_fuse.daemon STATE_DIR`."""
    journal.configure(os.path.basename(argv[1]))
    faulthandler.enable()  # a watchdog's SIGABRT shows where we hang
    notifier = Notifier.from_environment()
    try:
        return trio.run(serve, argv[1], notifier, received_fds())
    except (GuestmemfsError, ExceptionGroup) as raised:
        error: Exception = raised
        while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]  # a nursery's
        if not isinstance(error, GuestmemfsError):
            raise
        notifier.failed(error)
        log.error("%s%s", error.message, f" ({error.hint})" if error.hint else "")
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv))
