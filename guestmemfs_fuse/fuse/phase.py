"""The life of a FUSE session as seen by one daemon: its phases, which may follow which, and how it ends.

Owned by one Relay; the daemon reads it through the relay.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Final

import trio

from guestmemfs_fuse.core.errors import DaemonError


class Phase(Enum):
    """Where the session stands."""

    NEW = auto()
    STARTING = auto()
    RESUMING = auto()
    SERVING = auto()
    DRAINED = auto()
    ENDED = auto()


class Ended(Enum):
    """Why the session is over."""

    UNMOUNTED = "unmounted"
    ABORTED = "aborted"
    SESSION_CLOSED = "session closed"


_NEXT: Final[dict[Phase, frozenset[Phase]]] = {
    Phase.NEW: frozenset({Phase.STARTING, Phase.RESUMING, Phase.ENDED}),
    Phase.STARTING: frozenset({Phase.SERVING, Phase.ENDED}),
    Phase.RESUMING: frozenset({Phase.SERVING, Phase.ENDED}),
    Phase.SERVING: frozenset({Phase.DRAINED, Phase.ENDED}),
    Phase.DRAINED: frozenset({Phase.SERVING, Phase.ENDED}),
    Phase.ENDED: frozenset(),
}

# The device is read in these only, so that no request is taken that cannot be answered
_READING: Final = frozenset({Phase.STARTING, Phase.SERVING})


class Lifecycle:
    """The current phase, and a way to wait for the next. on_change is called after every transition.

    is_reading: whether the device may be read in it.
    """

    def __init__(self, on_change: Callable[[], None]) -> None:
        self.phase = Phase.NEW
        self.is_reading = False
        self.ended: Ended | None = None
        self._changed = trio.Event()
        self._on_change = on_change

    def go(self, phase: Phase) -> None:
        """Enter a phase; DaemonError when it may not follow the current one."""
        if phase not in _NEXT[self.phase]:
            raise DaemonError(f"a FUSE session that is {self.phase.name} cannot become {phase.name}")
        self.phase = phase
        self.is_reading = phase in _READING
        self.stir()

    def end(self, reason: Ended) -> None:
        """End the session; a second reason does not replace the first."""
        if self.ended is None:
            self.ended = reason
            self.go(Phase.ENDED)

    def stir(self) -> None:
        """Make everybody who waits look again."""
        self._changed.set()
        self._changed = trio.Event()
        self._on_change()

    async def change(self) -> None:
        """Wait until the phase changes, or stir()."""
        await self._changed.wait()

    async def until_serving(self) -> None:
        """Wait for SERVING. Raises DaemonError when the session ends instead."""
        while self.phase is not Phase.SERVING:
            if self.ended is not None:
                raise DaemonError(f"the FUSE session ended before it began ({self.ended.value})")
            await self.change()

    async def until_ended(self) -> Ended:
        """Wait for the end and say what it was."""
        while self.ended is None:
            await self.change()
        return self.ended
