"""The traced threads and processes, and the rule that says when a process is let go.

Owned by the tracer. The rule (`LeavingRule`) is a pure function of times: a process that has mapped guest
memory is let go when it has been quiet for a while, and nobody in it is inside a call that prepares memory
(a VMM with several memory backends populates the first for minutes before it maps the second).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from guestmemfs_fuse.redirect import arch
from guestmemfs_fuse.redirect.inject import Injection

PREPARING_CALLS = frozenset(
    {
        arch.SYS_MADVISE,
        arch.SYS_MLOCK,
        arch.SYS_MLOCK2,
        arch.SYS_MLOCKALL,
        arch.SYS_FALLOCATE,
        arch.SYS_FTRUNCATE,
    }
)
LONG_PREPARATION_S = 0.1
"""A preparing call of at least this length starts the quiet time anew; shorter ones are free()'s madvise."""

GRACE_S = 0.5
"""How long threads may take to come to a stop by themselves before they are interrupted to be let go."""


@dataclass(eq=False, slots=True)
class Process:
    """One thread group. quiet_since_s is None until it has mapped guest memory."""

    pid: int
    threads: set[int] = field(default_factory=set)
    quiet_since_s: float | None = None
    preparing: dict[int, float] = field(default_factory=dict)
    interrupt_at_s: float | None = None
    """Set while it is being let go: when those of its threads that still sleep are interrupted."""

    @property
    def is_leaving(self) -> bool:
        """Whether its threads are let go at their next stop."""
        return self.interrupt_at_s is not None

    def has_mapped(self, now_s: float) -> None:
        """A mapping of guest memory was made."""
        self.quiet_since_s = now_s

    def begins_preparing(self, tid: int, now_s: float) -> None:
        """A thread enters one of PREPARING_CALLS."""
        self.preparing[tid] = now_s

    def ends_preparing(self, tid: int, now_s: float) -> None:
        """The call is over, or the thread is dead."""
        began_s = self.preparing.pop(tid, now_s)
        if self.quiet_since_s is not None and now_s - began_s >= LONG_PREPARATION_S:
            self.quiet_since_s = now_s

    def starts_over(self) -> None:
        """It has executed another program: its mappings are gone."""
        self.quiet_since_s = None
        self.preparing.clear()


@dataclass(eq=False, slots=True)
class Thread:
    """One traced thread."""

    tid: int
    process: Process
    injection: Injection | None = None


@dataclass(frozen=True, slots=True)
class LeavingRule:
    """When to let go. keep: never; until: all at once, after that many mappings; else after settle_s."""

    settle_s: float = 1.0
    until: int | None = None
    keep: bool = False

    def all_leave(self, mappings: int) -> bool:
        """Whether everything is to be let go now."""
        return not self.keep and self.until is not None and mappings >= self.until

    def due_s(self, process: Process) -> float | None:
        """When something is to be done about a process (time.monotonic()), None: not by time alone."""
        if process.interrupt_at_s is not None:
            return process.interrupt_at_s
        if self.keep or self.until is not None or process.quiet_since_s is None or process.preparing:
            return None
        return process.quiet_since_s + self.settle_s
