"""Named, timed steps: what a blackout is made of. Used by `save` and `restore`, shown by CLI and demo."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One step; started_ns is CLOCK_MONOTONIC, so that steps of two processes can be put side by side."""

    name: str
    started_ns: int
    took_ns: int

    @property
    def ended_ns(self) -> int:
        """CLOCK_MONOTONIC at its end."""
        return self.started_ns + self.took_ns


class Stopwatch:
    """Collects steps in the order they were begun; a step that raises is kept too."""

    def __init__(self) -> None:
        self._steps: list[Step] = []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time the body under `name`."""
        started_ns = time.monotonic_ns()
        try:
            yield
        finally:
            self._steps.append(Step(name, started_ns, time.monotonic_ns() - started_ns))

    @property
    def steps(self) -> tuple[Step, ...]:
        """What was timed so far."""
        return tuple(self._steps)


def find_step(steps: tuple[Step, ...], name: str) -> Step:
    """The step of that name. Raises KeyError."""
    for step in steps:
        if step.name == name:
            return step
    raise KeyError(name)
