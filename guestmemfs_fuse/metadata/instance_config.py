"""What an instance was made with, and what its files are called.

Owns: `STATE_DIR/instance.json` (written when the instance is made, replaced atomically) and the names of
everything else inside a state directory (`Paths`).

Invariants: a configuration that was loaded is complete and plausible; one that is not is refused with the
file's name, never repaired or replaced. Called through metadata/instance.py.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Final, Literal, Self, get_args

from guestmemfs_fuse.core.errors import MetadataError, UnknownFormatError
from guestmemfs_fuse.metadata.instance_names import valid_name

INSTANCE_FORMAT = 1

HugeWish = Literal["prefer", "require"]
RegionKind = Literal["tmpfs", "memfd", "hugetlb", "dax"]
DEFAULT_KIND: Final[RegionKind] = "tmpfs"

RESERVE: Final = "reserve"
"""The key of InstanceConfig.options that says what --reserve did (region/hugetlb_reserve.py)."""
REPLACES: Final = "replaces"
"""The key of InstanceConfig.options that says which lost region this one was begun in the place of."""


# -- names inside a state directory --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Paths:
    """The names of everything that belongs to one instance."""

    state_dir: str

    def _in(self, name: str) -> str:
        return os.path.join(self.state_dir, name)

    @property
    def config(self) -> str:
        """The instance's configuration (InstanceConfig)."""
        return self._in("instance.json")

    @property
    def lock(self) -> str:
        """Held with flock by the one daemon that serves."""
        return self._in("lock")

    @property
    def control_sock(self) -> str:
        """Unix stream socket of the daemon (may be longer than sun_path: see control/client.py)."""
        return self._in("control.sock")

    @property
    def notify_sock(self) -> str:
        """Datagram socket of the holder, the NOTIFY_SOCKET of its daemon."""
        return self._in("notify.sock")

    @property
    def region(self) -> str:
        """Where the region's own mount or directory is."""
        return self._in("region")

    @property
    def metadata(self) -> str:
        """Journal and snapshot of region kinds that cannot carry them themselves (hugetlb, memfd)."""
        return self._in("metadata")

    @property
    def daemon_log(self) -> str:
        """What daemons wrote to stderr, newest last; the rotated part is daemon_log + '.1'."""
        return self._in("daemon.log")

    @property
    def last_words(self) -> str:
        """Why the daemon was given up, with the end of its stderr; absent while all is well."""
        return self._in("last_words")

    @property
    def holder_pid(self) -> str:
        """The holder's pid; the lock on this file, not its text, says whether it lives."""
        return self._in("holder.pid")

    def small_files(self) -> tuple[str, ...]:
        """Files of ours that hold no guest memory and no filesystem metadata."""
        return (
            self.control_sock,
            self.notify_sock,
            self.daemon_log,
            self.daemon_log + ".1",
            self.last_words,
            self.last_words + ".new",
            self.holder_pid,
            self.lock,
            self.config + ".new",
            self.config,
        )


# -- configuration -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InstanceConfig:
    """What an instance was made with. Sizes in bytes, already rounded to whole blocks.

    mountpoint is canonical (`resolve_path`). boot_id is the kernel's at creation: another one now means
    that a region in RAM without kexec support is gone. options: RESERVE, REPLACES, room for later settings.
    """

    name: str
    uuid_hex: str
    mountpoint: str
    kind: RegionKind
    size_bytes: int
    block_bytes: int
    boot_id: str
    created_ns: int
    numa_node: int | None = None
    huge: HugeWish = "prefer"
    dax_dir: str | None = None
    options: Mapping[str, object] = field(default_factory=dict)
    format: int = INSTANCE_FORMAT

    def save(self, state_dir: str) -> None:
        """Replace STATE_DIR/instance.json; after a crash either the old or the new text is there.

        Raises OSError as the kernel reports it.
        """
        path = Paths(state_dir).config
        text = json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"
        fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            remaining = memoryview(text.encode())
            while remaining:
                remaining = remaining[os.write(fd, remaining) :]
            os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(path + ".new", path)
        dir_fd = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(dir_fd)
        finally:
            os.close(dir_fd)

    @classmethod
    def load(cls, state_dir: str) -> Self:
        """Read STATE_DIR/instance.json.

        Raises FileNotFoundError when there is none, UnknownFormatError when another version wrote it and
        MetadataError (naming the file and what is wrong) when it cannot be what save() wrote.
        """
        path = Paths(state_dir).config
        with open(path, "rb") as file:
            raw = file.read()
        try:
            values = json.loads(raw)
        except ValueError as error:
            raise MetadataError(f"{path} is not JSON: {error}", hint=_RESTORE_HINT) from error
        return cls._from_values(path, values)

    @classmethod
    def _from_values(cls, path: str, values: object) -> Self:
        if not isinstance(values, dict):
            raise MetadataError(f"{path} holds no configuration", hint=_RESTORE_HINT)
        if values.get("format") != INSTANCE_FORMAT:
            raise UnknownFormatError(
                f"{path} has format {values.get('format')!r}, this version reads {INSTANCE_FORMAT}",
                hint="use the version of guestmemfs-fuse that made the instance, or a newer one",
            )
        known = {each.name for each in fields(cls)}
        unknown, missing = sorted(values.keys() - known), sorted(known - values.keys())
        if unknown or missing:
            what = f"unknown: {', '.join(unknown)}" if unknown else f"missing: {', '.join(missing)}"
            raise MetadataError(f"{path} has the wrong settings ({what})", hint=_RESTORE_HINT)
        for key, accepts in _CHECKS.items():
            if not accepts(values[key]):
                raise MetadataError(f"{path}: {key} cannot be {values[key]!r}", hint=_RESTORE_HINT)
        return cls(**values)


_RESTORE_HINT = "put the file back as it was; the region itself was not touched"


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_absolute(value: object) -> bool:
    return isinstance(value, str) and os.path.isabs(value)


_CHECKS: dict[str, Callable[[object], bool]] = {
    "name": lambda value: isinstance(value, str) and valid_name(value),
    "uuid_hex": lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{32}", value) is not None,
    "mountpoint": _is_absolute,
    "kind": lambda value: value in get_args(RegionKind),
    "size_bytes": _is_count,
    "block_bytes": _is_count,
    "boot_id": _is_text,
    "created_ns": _is_count,
    "numa_node": lambda value: value is None or (type(value) is int and value >= 0),
    "huge": lambda value: value in get_args(HugeWish),
    "dax_dir": lambda value: value is None or _is_absolute(value),
    "options": lambda value: isinstance(value, dict),
}


def current_boot_id() -> str:
    """This boot's id (random(4): /proc/sys/kernel/random/boot_id)."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()
