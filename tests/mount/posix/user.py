"""A user: a process of ours with that user's identity, which makes calls when it is told to.

One process per user lives as long as the suite, so a call as somebody else costs a message and not a fork.
The test process itself never touches the mount: a call that hangs is a failed test, not a hung suite.

Owns its process. Called by tree.py; the calls themselves are in calls/.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection, Pipe
from typing import Any, Final

from tests.mount.posix.calls import CALLS, process

HANGS_AFTER_S: Final = 120.0
"""A call may be thousands (several): 10,000 mknod took 6 s on a machine with five times as much to do."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who somebody is."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


SHARED_GROUP: Final = 61900
ROOT: Final = Identity("root", 0, 0)
ALICE: Final = Identity("alice", 61001, 61001, (61001, SHARED_GROUP))
BOB: Final = Identity("bob", 61002, 61002, (61002,))
MATE: Final = Identity("mate", 61003, 61003, (61003, SHARED_GROUP))
"""Shares a group with alice."""


class Hangs(AssertionError):
    """A call did not come back."""


class Died(AssertionError):
    """A call ended the process that made it."""


class User:
    """A process with an identity. fds: the roots of the filesystems under test, which it may enter."""

    def __init__(self, identity: Identity, fds: list[int]) -> None:
        self.identity = identity
        self._fds = fds
        self._start()

    def _start(self) -> None:
        self._connection, theirs = Pipe()
        sys.stdout.flush()
        self._pid = os.fork()
        if self._pid == 0:
            status = 1
            try:
                self._connection.close()
                _serve(theirs, self.identity, self._fds)
                status = 0
            finally:
                os._exit(status)
        theirs.close()

    @property
    def pid(self) -> int:
        return self._pid

    def call(self, name: str, *args: object, **kwargs: object) -> Any:
        """Make a call of calls/ as this user. Raises its OSError; Hangs, Died when it does not come back."""
        try:
            self._connection.send((name, args, kwargs))
            if not self._connection.poll(HANGS_AFTER_S):
                self._start_again()
                raise Hangs(f"{self.identity.name}: {name}{args!r:.200} hangs")
            kind, value = self._connection.recv()
        except (EOFError, ConnectionError):
            ended = self._start_again()
            raise Died(f"{self.identity.name}: {name}{args!r:.200} ended the process: {ended}") from None
        if kind == "value":
            return value
        if kind == "errno":
            raise OSError(value, os.strerror(value), f"{self.identity.name}: {name}{args}")
        raise AssertionError(f"{self.identity.name}: {name}{args} broke\n{value}")

    def end(self) -> int:
        """End the process. Returns its wait status, which is that of its own end where it was first."""
        self._connection.close()
        os.kill(self._pid, signal.SIGKILL)
        return os.waitpid(self._pid, 0)[1]

    def _start_again(self) -> str:
        """Have a process again; in words how the one before ended."""
        status = self.end()
        self._start()
        return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else f"status {status}"


def _serve(connection: Connection, identity: Identity, fds: list[int]) -> None:
    process.keep([connection.fileno(), *fds])
    process.forget_all()
    os.setgroups(identity.groups)
    os.setresgid(identity.gid, identity.gid, identity.gid)
    os.setresuid(identity.uid, identity.uid, identity.uid)
    while True:
        try:
            name, args, kwargs = connection.recv()
        except EOFError:
            return
        try:
            connection.send(("value", CALLS[name](*args, **kwargs)))
        except OSError as error:
            connection.send(("errno", error.errno))
        except Exception:
            connection.send(("bug", traceback.format_exc()))
