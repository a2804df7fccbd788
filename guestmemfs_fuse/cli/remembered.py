"""What outlives a reboot of an instance whose memory does not: a note in systemd's StateDirectory=.

Owns /var/lib/guestmemfs/NAME.json, written when a unit mounts. What lives in /run leaves no trace of an
earlier boot, so this is how a boot knows what it cost. Advisory: a note that cannot be read is no note.
Called by `serve` (unit_start), `list` and `destroy`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from guestmemfs_fuse.metadata.instance import DEFAULT_RUN_DIR, run_dir, valid_name

DIRECTORY = "/var/lib/guestmemfs"
"""StateDirectory=guestmemfs of the unit, as systemd.exec(5) places it."""
_SUFFIX = ".json"


@dataclass(frozen=True, slots=True)
class Remembered:
    """A region as it was last mounted; boot_id: in which boot that was."""

    boot_id: str
    kind: str
    size_bytes: int
    mountpoint: str | None = None

    def is_lost(self, boot_id: str) -> bool:
        """Whether its memory went with a reboot; boot_id: of this boot."""
        return self.boot_id != boot_id and self.kind != "dax"


def read(directory: str, name: str) -> Remembered | None:
    """The note of an instance, if there is one."""
    with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):
        with open(_path(directory, name), encoding="utf-8") as file:
            values: dict[str, Any] = json.load(file)
        mountpoint = values.get("mountpoint")
        return Remembered(
            str(values["boot_id"]),
            str(values["kind"]),
            int(values["size_bytes"]),
            mountpoint if isinstance(mountpoint, str) else None,
        )
    return None


def write(directory: str, name: str, note: Remembered) -> None:
    """Replace the note. Raises OSError."""
    path = _path(directory, name)
    with open(path + ".new", "w", encoding="utf-8") as file:
        json.dump(asdict(note), file)
    os.rename(path + ".new", path)


def forget(name: str) -> bool:
    """Remove the note, for the memory was given back; whether there was one."""
    if run_dir() == DEFAULT_RUN_DIR and valid_name(name):
        with suppress(OSError):
            os.unlink(_path(DIRECTORY, name))
            return True
    return False


def lost(known: Collection[str], boot_id: str, directory: str | None = None) -> list[tuple[str, Remembered]]:
    """Units, by name, not started in this boot, whose memory is gone. known: instances that exist."""
    if directory is None:
        if run_dir() != DEFAULT_RUN_DIR:
            return []  # a registry of somebody's own has nothing to do with this host's units
        directory = DIRECTORY
    try:
        files = sorted(os.listdir(directory))
    except OSError:
        return []
    names = [file.removesuffix(_SUFFIX) for file in files if file.endswith(_SUFFIX)]
    notes = [(name, read(directory, name)) for name in names if name not in known]
    return [(name, note) for name, note in notes if note is not None and note.is_lost(boot_id)]


def _path(directory: str, name: str) -> str:
    return os.path.join(directory, name + _SUFFIX)
