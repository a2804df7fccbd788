"""What the tracer says on the launcher's stderr, and what it counts.

Invariant: never fails and never blocks: a closed or full stderr loses the line, nothing else. Everything
that is traced waits for the tracer, perhaps also who would read that stderr.
Called by tracer and rewriter.
"""

from __future__ import annotations

import os
import select
import time
from dataclasses import dataclass, field

_STDERR = 2


@dataclass(slots=True)
class Statistics:
    """Counts since the start of tracing."""

    started_s: float = field(default_factory=time.monotonic)
    stops: int = 0
    mappings: int = 0
    processes: int = 0


class Report:
    """Lines on stderr, each problem once."""

    def __init__(self, *, verbose: bool) -> None:
        self.statistics = Statistics()
        self._verbose = verbose
        self._said: set[str] = set()
        self._has_summed_up = False

    def problem(self, text: str) -> None:
        """Something the user has to know."""
        if text not in self._said:
            self._said.add(text)
            self._write(text)

    def detail(self, text: str) -> None:
        """Something only --verbose shows."""
        if self._verbose:
            self._write(text)

    def sum_up(self) -> None:
        """The figures, once, when the last process is let go or about to die."""
        if not self._has_summed_up:
            self._has_summed_up = True
            figures = self.statistics
            seconds = time.monotonic() - figures.started_s
            self.detail(
                f"traced {figures.processes} processes for {seconds:.3f} s in {figures.stops} stops, "
                f"{figures.mappings} mappings of guest memory"
            )

    @staticmethod
    def _write(text: str) -> None:
        line = f"guestmemfs run: {text}\n".encode(errors="replace")[: select.PIPE_BUF]
        poll = select.poll()
        poll.register(_STDERR, select.POLLOUT)
        # A pipe is writable when it has room for PIPE_BUF bytes (pipe(7)).
        if poll.poll(0):
            try:
                os.write(_STDERR, line)
            except OSError:
                pass
