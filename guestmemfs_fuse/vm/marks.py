"""The mark on a RAM file that says: a saved guest rests in here, do not boot over it.

`save` and `restore` only say when; what sets it (vm/control_marks, through the daemon) is the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class Marks(Protocol):
    """Sets and lifts the mark; each may block, and may be called twice for the same file."""

    def hold(self, paths: Sequence[Path]) -> None:
        """Mark these RAM files. Raises GuestmemfsError."""

    def admit(self, paths: Sequence[Path]) -> None:
        """Let the VMM of a restore open these marked files; they stay marked. Raises GuestmemfsError."""

    def release(self, paths: Sequence[Path]) -> None:
        """Lift the mark. Raises GuestmemfsError."""


class NoMarks:
    """Marks nothing: for files whose owner looks after them."""

    def hold(self, paths: Sequence[Path]) -> None:
        """Do nothing."""

    def admit(self, paths: Sequence[Path]) -> None:
        """Do nothing."""

    def release(self, paths: Sequence[Path]) -> None:
        """Do nothing."""
