"""A bar for what takes long: on stderr, only when that is a terminal, only after a moment.

Invariant: without a terminal nothing is printed and no thread is started. rich is imported only where a bar
may be drawn. Called by fsck (checking), resize-file, resize and mount --reserve.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

Tick = Callable[[int, int], None]
"""(done, total), in the unit of the bar; a total of 0 is not known."""
Measure = Callable[[], tuple[int, int]]

AFTER_S = 1.0
"""What is done sooner needs no bar."""
_LOOK_S = 0.2
LOOKER = "progress"


@contextmanager
def bar(label: str, unit: Literal["count", "bytes"] = "count") -> Iterator[Tick]:
    """A bar as long as the block runs; it moves when the tick is called."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    began_s = time.monotonic()
    console = Console(file=sys.stderr)
    with Progress(*_columns(unit), console=console, transient=True) as drawn:
        task = drawn.add_task(label, total=None, visible=False)

        def tick(done: int, total: int) -> None:
            shown = time.monotonic() - began_s >= AFTER_S
            drawn.update(task, completed=done, total=total or None, visible=shown)

        yield tick


@contextmanager
def watched(label: str, measure: Measure, unit: Literal["count", "bytes"] = "count") -> Iterator[None]:
    """A bar for work that cannot tell: measure() is asked every now and then, in a thread."""
    if not sys.stderr.isatty():
        yield
        return
    ended = threading.Event()
    with bar(label, unit) as tick:

        def look() -> None:
            while not ended.wait(_LOOK_S):
                tick(*measure())

        looker = threading.Thread(target=look, name=LOOKER, daemon=True)
        looker.start()
        try:
            yield
        finally:
            ended.set()
            looker.join()


def on_event(tick: Tick) -> Callable[[Mapping[str, object]], None]:
    """What a daemon says of its work ({done, total}) as ticks; what is not understood is passed over."""

    def told(values: Mapping[str, object]) -> None:
        done, total = values.get("done"), values.get("total")
        if isinstance(done, int) and isinstance(total, int):
            tick(done, total)

    return told


def _columns(unit: Literal["count", "bytes"]) -> list[ProgressColumn]:
    from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

    amount = DownloadColumn(binary_units=True) if unit == "bytes" else MofNCompleteColumn()
    return [TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn()]
