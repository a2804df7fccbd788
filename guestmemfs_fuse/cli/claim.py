"""One command at a time changes an instance: a lock on its state directory.

Two `mount` commands at once, or an `umount` during a `destroy`, would each see half of what the other does.
The daemon has a lock of its own and does not care about this one.

Invariant: nothing is left behind; the lock is on the directory itself. Called by the commands that change
something. A command that becomes the daemon passes its claim on (handover/passed_claim.py).
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass

from guestmemfs_fuse.core.errors import InstanceBusyError, UnknownTargetError
from guestmemfs_fuse.metadata.instance import Instance, Paths

CLAIM_TIMEOUT_S = 20.0
_POLL_S = 0.02
_ATTEMPTS = 50


@dataclass(frozen=True, slots=True)
class Claim:
    """A state directory that is ours; fd: what the lock is on, for as long as the block lasts."""

    paths: Paths
    fd: int


@contextmanager
def claimed(state_dir: str, timeout_s: float = CLAIM_TIMEOUT_S) -> Iterator[Claim]:
    """Have the state directory, which must exist, for ourselves inside the block.

    Raises InstanceBusyError when another command has it for longer than timeout_s, FileNotFoundError when
    it is gone by the time it is ours.
    """
    fd = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _lock(fd, state_dir, timeout_s)
        if not _is_still(fd, state_dir):
            raise FileNotFoundError(2, os.strerror(2), state_dir)
        yield Claim(Paths(state_dir), fd)
    finally:
        os.close(fd)


@contextmanager
def claimed_instance(instance: Instance) -> Iterator[Claim]:
    """claimed, of an instance that was there a moment ago. Raises UnknownTargetError when it is gone."""
    with ExitStack() as stack:
        try:
            claim = stack.enter_context(claimed(instance.paths.state_dir))
        except FileNotFoundError:
            raise UnknownTargetError(
                f"instance {instance.name} is gone", hint="another command destroyed it meanwhile"
            ) from None
        yield claim


@contextmanager
def claimed_anew(make: Callable[[], Paths]) -> Iterator[Claim]:
    """Like claimed, for a directory that `make` makes if need be, even while others remove it.

    Raises FileNotFoundError when it cannot be made at all: behind a dangling symlink, in /proc.
    """
    with ExitStack() as stack:
        yield _claim_anew(stack, make)


def _claim_anew(stack: ExitStack, make: Callable[[], Paths]) -> Claim:
    for _again in range(_ATTEMPTS):
        with suppress(FileNotFoundError):
            return stack.enter_context(claimed(make().state_dir))
        time.sleep(_POLL_S)
    return stack.enter_context(claimed(make().state_dir))


def _lock(fd: int, state_dir: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise InstanceBusyError(
                    f"another guestmemfs command is at work on {state_dir}", hint="try again when it is done"
                ) from None
        time.sleep(_POLL_S)


def _is_still(fd: int, path: str) -> bool:
    """Whether the path still names the directory that is open as fd."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(fd), os.stat(path))
    return False
