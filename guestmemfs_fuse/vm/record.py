"""What lies between save and restore: a small JSON record beside the state file.

It says how the state was written, which files hold the RAM, and how the old VMM was started, so that
restore needs no arguments. Written before the old VMM is told to quit. Written by `save`, read by `restore`.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from guestmemfs_fuse.core.errors import InstanceBusyError
from guestmemfs_fuse.vm.errors import RecordError

FORMAT = 1


@dataclass(frozen=True, slots=True)
class SavedGuest:
    """A guest that rests in its RAM files and a state file.

    is_ram_in_place: the state file holds the devices only. uses_cpr: it was written in mode=cpr-reboot and
    must be read in it. was_running: the guest ran when it was saved, so restore lets it go on. command and
    directory: how the old VMM had been started.
    """

    is_ram_in_place: bool
    uses_cpr: bool
    was_running: bool
    ram_paths: tuple[str, ...]
    state_bytes: int
    qemu_version: str
    qmp_path: str
    command: tuple[str, ...]
    directory: str


def record_path(state_path: Path) -> Path:
    """Where the record of a state file lies."""
    return state_path.with_name(state_path.name + ".json")


def encode(saved: SavedGuest) -> bytes:
    """A record as bytes."""
    return json.dumps({"format": FORMAT, **asdict(saved)}, indent=2).encode() + b"\n"


def decode(raw: bytes, name: str) -> SavedGuest:
    """Bytes back to a record; `name` is for messages. Raises RecordError."""
    try:
        fields: dict[str, Any] = json.loads(raw)
        found = fields.pop("format")
        if found != FORMAT:
            raise RecordError(f"{name} has format {found}, this version reads {FORMAT}")
        fields["ram_paths"] = tuple(fields["ram_paths"])
        fields["command"] = tuple(fields["command"])
        return SavedGuest(**fields)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RecordError(f"{name} is not a record of a saved guest") from error


def write_record(state_path: Path, saved: SavedGuest) -> None:
    """Write the record beside the state file, whole or not at all. Raises OSError."""
    final = record_path(state_path)
    partial = final.with_name(final.name + ".partial")
    fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(encode(saved))
    os.replace(partial, final)


@contextmanager
def claimed(state_path: Path) -> Iterator[None]:
    """Nobody else restores this guest meanwhile. Raises InstanceBusyError, RecordError without a record."""
    try:
        fd = os.open(record_path(state_path), os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(state_path, error) from error
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InstanceBusyError(
                f"somebody restores the guest in {state_path} already", hint="`guestmemfs vm list` shows it"
            ) from error
        yield
    finally:
        os.close(fd)


def read_record(state_path: Path) -> SavedGuest:
    """Read the record of a state file. Raises RecordError when there is none or it is damaged."""
    path = record_path(state_path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise _unreadable(state_path, error) from error
    return decode(raw, str(path))


def _unreadable(state_path: Path, error: OSError) -> RecordError:
    return RecordError(
        f"cannot read {record_path(state_path)}: {error.strerror}",
        hint="it is written beside the state file by vm save",
    )
