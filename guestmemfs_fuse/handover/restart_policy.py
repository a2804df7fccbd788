"""When a dead daemon is started again, and when it is given up. Pure; used by the holder only."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

WINDOW_S = 30.0
DELAYS_S = (0.0, 0.1, 0.5, 1.0, 2.0)
"""Wait before the first, second, ... restart within the window. One more death and the daemon is given up."""


class RestartPolicy:
    """Counts deaths within a sliding window.

    Callers on the mount hang while we wait, so the first restart is immediate.
    """

    def __init__(self, delays_s: Sequence[float] = DELAYS_S, window_s: float = WINDOW_S) -> None:
        self._delays_s = delays_s
        self._window_s = window_s
        self._deaths_s: list[float] = []

    def died(self, now_s: float) -> float | None:
        """The daemon died now: seconds to wait before it is started again, None to give it up."""
        self._deaths_s = [each for each in self._deaths_s if now_s - each < self._window_s]
        self._deaths_s.append(now_s)
        tries = len(self._deaths_s) - 1
        return self._delays_s[tries] if tries < len(self._delays_s) else None

    @property
    def deaths(self) -> int:
        """Deaths within the window, as of the last one."""
        return len(self._deaths_s)

    def forget(self) -> None:
        """Somebody asked for a start: old deaths count no more."""
        self._deaths_s = []
