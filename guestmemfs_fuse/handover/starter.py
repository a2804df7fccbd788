"""The holder's end of the pipe to whoever waits for a daemon. Standard library only.

What goes over it, in this order: a line `H<pid>` from the process that becomes the holder, a line `D<pid>`
when a daemon was started, or `A<log fd> <address in hex>` when one is to be adopted; then `R` once it is
ready, or `E<last words>`; then the end. handover/launch.py reads it.

Invariants: nothing here raises or waits for a reader that has gone. Used by the holder only.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import select
    from collections.abc import Collection


class Starter:
    """One who waits, or nobody (fd -1)."""

    def __init__(self, fd: int = -1) -> None:
        """fd: write end of the pipe, which becomes ours."""
        self._fd = fd
        self._poll: select.poll | None = None

    @property
    def waits(self) -> bool:
        """Whether somebody has still to hear how it went."""
        return self._fd >= 0

    def watch(self, poll: select.poll) -> None:
        """Have poll tell when nobody reads any more: see has_left."""
        poll.register(self._fd, 0)  # POLLERR is always reported (poll(2))
        self._poll = poll

    def has_left(self, ready: Collection[int]) -> bool:
        """Whether the one who waited is gone, unanswered. ready: what poll told."""
        return self._poll is not None and self._fd in ready

    def tell(self, text: str) -> None:
        """Write text, if anybody waits."""
        if self._fd >= 0:
            try:
                os.write(self._fd, text.encode(errors="replace"))
            except OSError:
                pass  # it does not wait any more

    def hang_up(self, text: str) -> None:
        """Write text, which is the last thing to be said."""
        self.tell(text)
        if self._poll is not None:
            self._poll.unregister(self._fd)
            self._poll = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
