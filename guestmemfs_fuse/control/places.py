"""Places for clients of the control socket: so many at a time, and nobody holds one up who asks for nothing.

A client without a request keeps its place only while no other wants it: sixteen terminals that hang would
otherwise keep every command waiting, and the watchdog's question too, which is a death sentence.

Owned by one ControlServer. Invariant: a request that has begun is never cut short.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

import trio

from guestmemfs_fuse.core.errors import InstanceBusyError

HURRY_S: Final = 1.0
"""How long a client may still think about its request when another one wants its place."""


class Places:
    """count: clients served at a time; max_waiting: clients that may wait for one of them to go."""

    def __init__(self, count: int, max_waiting: int) -> None:
        self._free = trio.Semaphore(count)
        self._max_waiting = max_waiting
        self._waiting = 0
        self._idle: set[trio.CancelScope] = set()
        self._patient = True

    def be_patient(self, patient: bool) -> None:
        """Whether clients may think about their requests at all; at first they may."""
        self._patient = patient
        if not patient:
            for scope in self._idle:
                scope.cancel()

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Have a place inside the block, in order of arrival. Raises InstanceBusyError when too many wait."""
        if self._waiting >= self._max_waiting:
            raise InstanceBusyError(
                f"{self._waiting} commands wait for the daemon already", hint="try again when they are done"
            )
        self._waiting += 1
        try:
            self._hurry_if_wanted()
            await self._free.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._free.release()

    @contextmanager
    def without_request(self, timeout_s: float) -> Iterator[None]:
        """The block waits for a client's next word; cut short after timeout_s, or soon if others wait.

        At once when nobody is to be waited for (`be_patient`).
        """
        with trio.move_on_after(timeout_s if self._patient else 0) as scope:
            self._idle.add(scope)
            try:
                self._hurry_if_wanted()
                yield
            finally:
                self._idle.discard(scope)

    def _hurry_if_wanted(self) -> None:
        if self._waiting and self._free.value == 0:
            latest = trio.current_time() + HURRY_S
            for scope in self._idle:
                scope.deadline = min(scope.deadline, latest)
