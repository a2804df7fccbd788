"""When a dead daemon is started again, and when it is given up. Pure; used by the holder only."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

WINDOW_S = 30.0
DELAYS_S = (0.0, 0.1, 0.5, 1.0, 2.0)
"""Wait before the first, second, ... restart within the window. One more death and the daemon is given up."""
MAX_KILLED = 100
ABORT_GRACE_S = 2.0
"""From SIGTERM to SIGKILL for a daemon whose start was called off."""
EXIT_COME_BACK = 75
"""The status of a daemon that wants to be started again: SIGTERM to it, or a handover that failed."""


class RestartPolicy:
    """Counts deaths within a sliding window.

    Callers on the mount hang while we wait, so the first restart is immediate. A daemon that was ended by
    others (SIGKILL from an operator, the OOM killer, a test; once it serves, EXIT_COME_BACK) did not fail:
    that neither waits nor counts, up to MAX_KILLED times in a window.
    """

    def __init__(self, delays_s: Sequence[float] = DELAYS_S, window_s: float = WINDOW_S) -> None:
        self._delays_s = delays_s
        self._window_s = window_s
        self._deaths_s: list[float] = []
        self._killed_s: list[float] = []

    def died(self, now_s: float, *, killed: bool = False) -> float | None:
        """The daemon died now: seconds to wait before it is started again, None to give it up.

        killed: it was ended by others.
        """
        start_s = now_s - self._window_s
        self._deaths_s = [each for each in self._deaths_s if each > start_s]
        self._killed_s = [each for each in self._killed_s if each > start_s]
        (self._killed_s if killed else self._deaths_s).append(now_s)
        if len(self._killed_s) > MAX_KILLED:
            return None
        if killed:
            return 0.0
        tries = len(self._deaths_s) - 1
        return self._delays_s[tries] if tries < len(self._delays_s) else None

    @property
    def deaths(self) -> int:
        """Deaths within the window, as of the last one."""
        return len(self._deaths_s) + len(self._killed_s)

    def forget(self) -> None:
        """Somebody asked for a start: old deaths count no more."""
        self._deaths_s, self._killed_s = [], []
