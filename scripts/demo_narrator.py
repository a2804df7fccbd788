"""What the demo says: headings, figures, checks, and the one-screen summary. Colour on terminals only."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass

GREEN, RED, BOLD, DIM, PLAIN = "\033[32m", "\033[31m", "\033[1m", "\033[2m", "\033[0m"


class StepFailed(Exception):
    """A step of the demo did not do what it promises."""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the summary."""

    what: str
    figure: str


def milliseconds(ns: float) -> str:
    """A duration as people read it."""
    return f"{ns / 1e9:.2f} s" if ns >= 1e9 else f"{ns / 1e6:.1f} ms"


def mebibytes(size_bytes: int) -> str:
    """A size as people read it."""
    return f"{size_bytes / (1 << 20):.1f} MiB" if size_bytes % (1 << 20) else f"{size_bytes >> 20} MiB"


class Narrator:
    """Prints as things happen and remembers what the summary repeats."""

    def __init__(self) -> None:
        self._has_colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._summary: list[Line] = []
        self._checks = 0

    def _paint(self, text: str, colour: str) -> str:
        return f"{colour}{text}{PLAIN}" if self._has_colour else text

    def step(self, number: int, title: str) -> None:
        """Begin a step."""
        print(f"\n{self._paint(f'{number}. {title}', BOLD)}", flush=True)

    def say(self, text: str) -> None:
        """Tell what is being done."""
        print(f"   {text}", flush=True)

    def check(self, is_so: object, text: str) -> None:
        """Something that must hold. Raises StepFailed when it does not."""
        if not is_so:
            print(f"   {self._paint('✗', RED)} {text}", flush=True)
            raise StepFailed(text)
        self._checks += 1
        print(f"   {self._paint('✓', GREEN)} {text}", flush=True)

    def table(self, rows: list[tuple[str, ...]]) -> None:
        """Columns of text, the first to the left and the others to the right; the first row is the head."""
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for number, row in enumerate(rows):
            cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
            text = "   ".join(cells).rstrip()
            print(f"     {self._paint(text, DIM) if number == 0 else text}", flush=True)

    def remember(self, what: str, figure: str) -> None:
        """A line for the summary."""
        self._summary.append(Line(what, figure))

    def finish(self, took_ns: float) -> None:
        """The summary of a demo in which every step held."""
        width = max(len(line.what) for line in self._summary)
        print(f"\n{self._paint('Summary', BOLD)}")
        for line in self._summary:
            print(f"   {line.what.ljust(width)}   {line.figure}")
        verdict = f"every step held ({self._checks} checks, {milliseconds(took_ns)})"
        print(f"\n{self._paint(verdict, GREEN)}", flush=True)

    def fail(self, reason: str) -> None:
        """The end of a demo in which one did not."""
        print(f"\n{self._paint(f'FAILED: {reason}', RED)}", flush=True)
