"""What mount(8) and fstab say behind -o, understood or refused by name.

Pure. Three sorts of words: ours (size=4G, region=memfd, ... as the options of `guestmemfs mount`), those that
mount(8) and systemd read themselves, and those about the mount that are so anyway (nosuid) or cannot be
(ro). Called by the mount helper.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from guestmemfs_fuse.cli.settings import SETTINGS, Understand
from guestmemfs_fuse.core.errors import UsageError

_FOR_OTHERS = "defaults auto noauto nofail _netdev user nouser users nousers owner noowner group nogroup"
_ANYWAY = (
    "rw nosuid nodev noexec relatime norelatime noatime atime nodiratime diratime strictatime "
    "nostrictatime async silent loud nolazytime lazytime noiversion nomand nosymfollow allow_other "
    "default_permissions"
)
FOR_OTHERS = frozenset(_FOR_OTHERS.split())
"""mount(8), FILESYSTEM-INDEPENDENT MOUNT OPTIONS: read by mount and systemd, nothing to us."""
ANYWAY = frozenset(_ANYWAY.split())
"""True of every mount of ours, or without a meaning where no data passes through the filesystem."""
_WITH_VALUE = frozenset({"comment", "user_id", "group_id", "subtype"})
"""A remount hands back what the mount table shows."""
IMPOSSIBLE: Mapping[str, str] = {
    "ro": "guests store into their memory",
    "exec": "these files are memory, not programs",
    "suid": "these files are memory, not programs",
    "dev": "device nodes in guest memory are refused",
    "sync": "nothing is ever written back",
    "dirsync": "metadata is always durable",
    "mand": "there is no mandatory locking",
    "bind": "mount --bind needs no filesystem type",
}


@dataclass(frozen=True, slots=True)
class MountOptions:
    """remount: of a mount that is there; wishes: arguments for Wishes."""

    remount: bool = False
    wishes: Mapping[str, Any] = field(default_factory=dict)


def parse(words: str, *, sloppy: bool = False) -> MountOptions:
    """The comma-separated words of -o. sloppy: pass over unknown words (mount -s).

    Raises UsageError that names the word.
    """
    remount, wishes = False, {}
    for word in filter(None, words.split(",")):
        key, equals, value = word.partition("=")
        if word == "remount":
            remount = True
        elif key in _OURS:
            name, understand = _OURS[key]
            try:
                wishes[name] = understand(value)
            except ValueError as error:
                raise UsageError(f"option {word}: {error}") from error
        elif word in IMPOSSIBLE:
            raise UsageError(f"option {word} is not possible: {IMPOSSIBLE[word]}")
        elif not (sloppy or _is_nothing_to_us(key, has_value=bool(equals))):
            raise UsageError(f"unknown option {word}", hint=f"known are {', '.join(_OURS)}")
    return MountOptions(remount, wishes)


def _is_nothing_to_us(key: str, *, has_value: bool) -> bool:
    if key in _WITH_VALUE or key.startswith(("x-", "X-")):
        return True
    return not has_value and (key in FOR_OTHERS or key in ANYWAY)


def _flag(value: object) -> bool:
    if value:
        raise ValueError("takes no value")
    return True


_OURS: Mapping[str, tuple[str, Understand]] = {**SETTINGS, "reserve": ("reserve", _flag)}
