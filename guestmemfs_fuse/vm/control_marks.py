"""Marks on RAM files, set through the daemon's control socket: nobody boots over a guest that rests.

A marked file cannot be opened, removed, replaced or shrunk; the mark's text is the path of the state file
that belongs to it. Restoring opens the door of exactly those files for the moment in which QEMU opens them,
and only when their mark names the very state that is to be loaded: device state of one moment over the RAM
of another is a broken guest.

Invariant: taking a mark away, or closing a door, never raises: it happens where something else has gone
wrong, or where the guest runs already. What did not work is in `remarks`. Called by cli/vm*.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from guestmemfs_fuse.control import client
from guestmemfs_fuse.core.errors import GuestmemfsError, UsageError
from guestmemfs_fuse.metadata.instance import instance_of_path


def mark_of(state_path: Path) -> str:
    """The text that marks the RAM files of the guest saved in state_path."""
    return os.path.realpath(state_path)


def set_mark(path: Path, text: str, *, openable: bool = False) -> str:
    """Mark the file at path (an empty text lifts the mark); returns what it was marked with before.

    openable: let it be opened all the same, until the next call. Raises GuestmemfsError: no such file or
    instance, frozen, no daemon.
    """
    instance, inside = instance_of_path(str(path))
    args = {"path": "/" + inside, "mark": text, "openable": openable}
    answer = client.call(instance.paths.state_dir, "mark", args, wait_s=client.RESTART_WAIT_S)
    return str(answer.get("before", "")) if isinstance(answer, dict) else ""


class _Quietly:
    """Collects what went wrong where nothing may be raised."""

    def __init__(self) -> None:
        self.remarks: list[str] = []

    def _try(self, path: Path, text: str) -> None:
        try:
            set_mark(path, text)
        except (GuestmemfsError, OSError) as error:
            self.remarks.append(f"the mark of {path} could not be changed: {error}")


class SavingMarks(_Quietly):
    """The marks of a `save` (vm/marks.Marks)."""

    def __init__(self, state_path: Path) -> None:
        super().__init__()
        self._text = mark_of(state_path)

    def hold(self, paths: Sequence[Path]) -> None:
        """Mark the files. Raises GuestmemfsError."""
        for path in paths:
            set_mark(path, self._text)

    def admit(self, paths: Sequence[Path]) -> None:
        """Nobody is let in while a guest is saved."""
        raise NotImplementedError("saving admits nobody")

    def release(self, paths: Sequence[Path]) -> None:
        """Lift the marks of a guest that goes on."""
        for path in paths:
            self._try(path, "")


class RestoringMarks(_Quietly):
    """The marks of a `restore` (vm/marks.Marks). force: whatever the files are marked with."""

    def __init__(self, state_path: Path, *, force: bool = False) -> None:
        super().__init__()
        self._text = mark_of(state_path)
        self._force = force
        self._admitted: list[Path] = []

    def admit(self, paths: Sequence[Path]) -> None:
        """Open the door of files that hold this very guest.

        Raises UsageError when one is marked with another state or with none; then nothing is changed.
        """
        for path in paths:
            before = set_mark(path, self._text)
            if before != self._text and not self._force:
                set_mark(path, before)
                holds = f"the guest saved in {before}" if before else "no saved guest (any more)"
                raise UsageError(
                    f"{path} holds {holds}, not the one in {self._text}",
                    hint="--force loads the state all the same: the guest breaks if its RAM was used since",
                )
            self._admitted.append(path)
        for path in paths:
            set_mark(path, self._text, openable=True)

    def hold(self, paths: Sequence[Path]) -> None:
        """Close the doors that were opened: the guest rests on."""
        for path in self._admitted:
            self._try(path, self._text)

    def release(self, paths: Sequence[Path]) -> None:
        """Lift the marks: the guest runs."""
        for path in paths:
            self._try(path, "")
