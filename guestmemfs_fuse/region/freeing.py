"""Gives the memory of large removed files back without making callers wait.

The kernel takes 2 ms for each GiB in huge pages and much more in small ones, in the call that drops the last
reference to a file: that call is made in a thread here. It has to be the last, so nothing is released before
`begin`: by then whoever removes a file has given back what else refers to it (its backing id).

What is on its way counts as free, because who needs the room can wait for it (`wait`). Nothing is lost when
the process ends in between: its references end with it.

Invariants: what was taken is released exactly once, and a release that fails keeps nobody waiting; there is a
thread only while there is something to do.
Filled and waited for by the regions; begun, and waited for before a resize, by the engine.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

log = logging.getLogger(__name__)

Release = Callable[[], None]
"""Drops the last reference to a file's memory. May raise OSError."""


class Freeing:
    """What is on its way back. Thread safe."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._pending: deque[tuple[int, Release]] = deque()
        self._pending_bytes = 0
        self._works = False

    @property
    def pending_bytes(self) -> int:
        """How much is not back yet, of what was taken."""
        return self._pending_bytes

    def take(self, length_bytes: int, release: Release) -> None:
        """Have `release` called, which gives back length_bytes, after `begin`."""
        with self._changed:
            self._pending.append((length_bytes, release))
            self._pending_bytes += length_bytes

    def begin(self) -> None:
        """Release what was taken. Returns at once."""
        with self._changed:
            if self._works or not self._pending:
                return
            self._works = True
        try:
            threading.Thread(target=self._work, name="freeing").start()
        except RuntimeError:
            self._work()  # the host has no thread left for us

    def wait(self) -> None:
        """Begin, and return once everything is back. Blocks."""
        self.begin()
        with self._changed:
            while self._works:
                self._changed.wait()

    def _work(self) -> None:
        while True:
            with self._changed:
                if not self._pending:
                    self._works = False
                    self._changed.notify_all()
                    return
                length_bytes, release = self._pending.popleft()
            try:
                release()
            except BaseException as error:  # whoever waits would do so for ever
                is_bug = not isinstance(error, OSError)
                log.warning("the memory of a removed file was not given back: %s", error, exc_info=is_bug)
            with self._changed:
                self._pending_bytes -= length_bytes
