"""The daemon's side of systemd's fd store protocol: what it was given, and what it says.

Messages are those of sd_notify(3) and sd_listen_fds(3); whether systemd or our holder is at the other end
makes no difference here. Without NOTIFY_SOCKET there is no store (`mount --foreground`): the Notifier then
says `present == False` and swallows everything.

Invariants: descriptors that were received are close-on-exec and taken out of the environment, so no child
of ours sees them by accident. What decides over survival (`store`, `remove`, `barrier`) raises when it
cannot be delivered; `ready` and `main_pid` say False when the store was killed, since the mount lives on
without it; what only informs (`watchdog`, `stopping`, ...) never waits and returns False.
Called by daemon.py; calls block for at most a few milliseconds, `barrier` until the store has caught up.
"""

from __future__ import annotations

import array
import os
import select
import socket
from collections.abc import Iterable, Mapping, MutableMapping
from typing import Self

from guestmemfs_fuse.core.errors import DaemonError, GuestmemfsError
from guestmemfs_fuse.handover import fdnames
from guestmemfs_fuse.handover.spawn import FIRST_FD

_UNNAMED = "unknown"  # what sd_listen_fds_with_names(3) calls a descriptor without a name
_LISTEN_VARIABLES = ("LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PIDFDID")
_SEND_TIMEOUT_S = 10.0
_MAX_FDS_PER_MESSAGE = 253  # SCM_MAX_FD, include/net/scm.h


# -- received descriptors --------------------------------------------------------------------------------


def parse_listen_fds(environ: Mapping[str, str], pid: int) -> list[tuple[str, int]]:
    """(name, fd) for each descriptor that environ passes to process pid; empty when it is meant for another.

    Raises DaemonError when the variables contradict each other.
    """
    if environ.get("LISTEN_PID") != str(pid) or "LISTEN_FDS" not in environ:
        return []
    count_text = environ["LISTEN_FDS"]
    if not count_text.isdecimal():
        raise DaemonError(f"LISTEN_FDS is {count_text!r}, not a number")
    count = int(count_text)
    names = environ["LISTEN_FDNAMES"].split(":") if environ.get("LISTEN_FDNAMES") else [_UNNAMED] * count
    if len(names) != count:
        raise DaemonError(f"LISTEN_FDNAMES has {len(names)} names for {count} descriptors")
    return [(name, FIRST_FD + index) for index, name in enumerate(names)]


def received_fds(environ: MutableMapping[str, str] | None = None) -> dict[str, list[int]]:
    """The descriptors this process was started with, by name, now close-on-exec; LISTEN_* is removed.

    The caller owns them. Call once, before anything opens a file. Raises DaemonError when the environment
    names descriptors that are not open.
    """
    env = os.environ if environ is None else environ
    found = parse_listen_fds(env, os.getpid())
    for variable in _LISTEN_VARIABLES:
        env.pop(variable, None)
    by_name: dict[str, list[int]] = {}
    for name, fd in found:
        try:
            os.set_inheritable(fd, False)
        except OSError as error:
            raise DaemonError(f"descriptor {fd} ({name}) was announced but is not open") from error
        by_name.setdefault(name, []).append(fd)
    return by_name


def pass_on(environ: MutableMapping[str, str], name: str, fd: int) -> None:
    """Add fd, which becomes ours to give, to the descriptors that this process's next program receives.

    For a process that was started with descriptors and becomes the daemon by exec. Raises DaemonError when
    it has its own file where the next one would be.
    """
    found = parse_listen_fds(environ, os.getpid())
    number = FIRST_FD + len(found)
    if fd != number:
        try:
            os.fstat(number)
        except OSError:
            os.dup2(fd, number)
            os.close(fd)
        else:
            raise DaemonError(f"descriptor {number} is in use: {name} cannot be passed on as it")
    os.set_inheritable(number, True)
    environ["LISTEN_PID"] = str(os.getpid())
    environ["LISTEN_FDS"] = str(len(found) + 1)
    environ["LISTEN_FDNAMES"] = ":".join([*(each for each, _fd in found), name])


def watchdog_interval_s(environ: Mapping[str, str], pid: int) -> float | None:
    """Seconds within which watchdog() must be called, or None (sd_watchdog_enabled(3))."""
    text = environ.get("WATCHDOG_USEC", "")
    if not text.isdecimal() or int(text) == 0 or environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    return int(text) / 1e6


# -- messages --------------------------------------------------------------------------------------------


def format_message(fields: Iterable[tuple[str, str]]) -> bytes:
    """KEY=value lines; a newline in a value would start a field of its own and becomes a space."""
    return "\n".join(f"{key}={value.translate(_ONE_LINE)}" for key, value in fields).encode(
        errors="surrogateescape"
    )


_ONE_LINE = {0x0A: " ", 0x00: " "}


def socket_address(notify_socket: str) -> bytes:
    """NOTIFY_SOCKET as an address: a path, or '@' for an abstract name. Raises DaemonError for others."""
    if notify_socket[:1] not in ("/", "@") or len(notify_socket) < 2:
        raise DaemonError(f"NOTIFY_SOCKET {notify_socket!r} is neither a path nor an abstract socket")
    raw = os.fsencode(notify_socket)
    return b"\0" + raw[1:] if raw.startswith(b"@") else raw


class Notifier:
    """Speaks to whoever keeps our descriptors. Made once per daemon by `from_environment`."""

    def __init__(self, notify_socket: str | None) -> None:
        """notify_socket: as in the environment variable, or None for nobody."""
        self._address = socket_address(notify_socket) if notify_socket else None
        self._sent = 0
        self._failed = 0

    @classmethod
    def from_environment(cls, environ: Mapping[str, str] | None = None) -> Self:
        """The one that NOTIFY_SOCKET names. The variable stays: a successor needs it too."""
        return cls((os.environ if environ is None else environ).get("NOTIFY_SOCKET") or None)

    @property
    def present(self) -> bool:
        """Whether there is a store at all."""
        return self._address is not None

    def is_heard(self) -> bool:
        """Whether somebody still listens: a holder that was killed leaves its socket behind."""
        if self._address is None:
            return False
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
            return probe.connect_ex(self._address) == 0

    def move(self, notify_socket: str) -> None:
        """Speak to another store from now on; it has nothing of ours yet. Raises DaemonError."""
        self._address = socket_address(notify_socket)

    def statistics(self) -> dict[str, int]:
        """Messages sent, and those that found nobody."""
        return {"sent": self._sent, "failed": self._failed}

    def ready(self, status: str = "serving") -> bool:
        """The mount serves requests. False when the store is gone, DaemonError when it does not read."""
        return self._announce([("READY", "1"), ("STATUS", status)])

    def watchdog(self) -> bool:
        """Still healthy; False when it was not delivered."""
        return self._inform([("WATCHDOG", "1")])

    def stopping(self) -> bool:
        """The daemon is on its way out because it was asked to."""
        return self._inform([("STOPPING", "1")])

    def failed(self, error: GuestmemfsError) -> bool:
        """Why the daemon will not serve: `mount` raises the same again. Send before exiting non-zero."""
        fields = [("STATUS", error.message), ("X_GUESTMEMFS_ERROR", type(error).__name__)]
        if error.hint:
            fields.append(("X_GUESTMEMFS_HINT", error.hint))
        return self._inform(fields)

    def main_pid(self, pid: int) -> bool:
        """From now on process pid is the daemon. False when the store is gone (then nobody restarts it).

        Raises DaemonError when the store is there but does not read: it would watch the wrong process.
        """
        return self._announce([("MAINPID", str(pid))])

    def store(self, name: str, *fds: int) -> None:
        """Keep duplicates of fds under name. They stay ours as well.

        FDPOLL=0 because a polled /dev/fuse would wake the store at every request, and an unmounted one would
        vanish from it. Only barrier() tells that the store has them. Raises DaemonError.
        """
        if not fdnames.valid(name) or not 0 < len(fds) <= _MAX_FDS_PER_MESSAGE:
            raise ValueError(f"cannot store {len(fds)} descriptors as {name!r}")
        self._demand([("FDSTORE", "1"), ("FDPOLL", "0"), ("FDNAME", name)], fds)

    def remove(self, name: str) -> None:
        """Let go of everything stored under name. Raises DaemonError."""
        if not fdnames.valid(name):
            raise ValueError(f"cannot remove {name!r}")
        self._demand([("FDSTOREREMOVE", "1"), ("FDNAME", name)])

    def barrier(self, timeout_s: float = 5.0) -> None:
        """Return once everything sent before has been processed (sd_notify_barrier(3)). Blocks.

        Raises DaemonError when the store does not answer within timeout_s.
        """
        if not self.present:
            return
        reader, writer = os.pipe2(os.O_CLOEXEC)
        try:
            try:
                self._demand([("BARRIER", "1")], [writer])
            finally:
                os.close(writer)
            poll = select.poll()
            poll.register(reader, 0)  # POLLHUP is always reported: the store closed its end
            if not poll.poll(timeout_s * 1000):
                raise DaemonError(f"the fd store did not answer within {timeout_s:g} s")
        finally:
            os.close(reader)

    def _demand(self, fields: Iterable[tuple[str, str]], fds: Iterable[int] = ()) -> None:
        try:
            self._send(format_message(fields), fds, _SEND_TIMEOUT_S)
        except OSError as error:
            raise DaemonError(f"the fd store cannot be reached: {error.strerror or error}") from error

    def _announce(self, fields: Iterable[tuple[str, str]]) -> bool:
        try:
            self._demand(fields)
        except DaemonError as error:
            if isinstance(error.__cause__, (ConnectionRefusedError, FileNotFoundError)):
                return False
            raise
        return True

    def _inform(self, fields: Iterable[tuple[str, str]]) -> bool:
        try:
            # A store that is stopped must not stop us: never wait for room in its queue.
            self._send(format_message(fields), (), 0.0)
        except OSError:
            return False
        return True

    def _send(self, message: bytes, fds: Iterable[int], timeout_s: float) -> None:
        if self._address is None:
            return
        ancillary = []
        if packed := array.array("i", fds):
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, packed)]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(timeout_s)
            try:
                sender.sendmsg([message], ancillary, 0, self._address)
            except OSError:
                self._failed += 1
                raise
        self._sent += 1
