"""A daemon and instances that exist on paper only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from guestmemfs_fuse.cli.sight import Sight
from guestmemfs_fuse.control import client
from guestmemfs_fuse.core.errors import GuestmemfsError
from guestmemfs_fuse.linux.mountinfo import OURS, MountEntry
from guestmemfs_fuse.metadata import instance as registry
from guestmemfs_fuse.metadata.instance import InstanceConfig

MIB = 1 << 20


def a_config(name: str = "guests", mountpoint: str = "/mnt/guests", **changes: Any) -> InstanceConfig:
    """What a 64 MiB tmpfs instance was made with, in this boot."""
    config = InstanceConfig(
        name=name,
        uuid_hex="0123456789abcdef" * 2,
        mountpoint=mountpoint,
        kind="tmpfs",
        size_bytes=64 * MIB,
        block_bytes=2 * MIB,
        boot_id=registry.current_boot_id(),
        created_ns=1,
    )
    return replace(config, **changes)


def a_mount(mountpoint: str = "/mnt/guests", source: str = "guests") -> MountEntry:
    """Our filesystem, as mountinfo shows it."""
    return MountEntry(99, 1, 0, 77, "/", mountpoint, "rw", OURS, source, "rw")


SERVING = Sight(mount=a_mount(), has_daemon=True, holder_pid=40, has_region=True, last_words=None)
STOPPED = Sight(mount=None, has_daemon=False, holder_pid=None, has_region=True, last_words=None)
DEAD = Sight(mount=a_mount(), has_daemon=False, holder_pid=None, has_region=True, last_words=None)
RESTARTING = Sight(mount=a_mount(), has_daemon=False, holder_pid=40, has_region=True, last_words=None)
LOST = Sight(mount=None, has_daemon=False, holder_pid=None, has_region=False, last_words=None)


@dataclass
class FakeDaemon:
    """Answers control requests: a value, an error to raise, or a function of the arguments."""

    answers: dict[str, Any] = field(default_factory=dict)
    asked: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def call(
        self, state_dir: str, op: str, args: Mapping[str, object] | None = None, **options: Any
    ) -> object:
        """Stands in for control.client.call."""
        self.asked.append((op, dict(args or {})))
        answer = self.answers.get(op, client.NotRunningError("the daemon is not running"))
        if callable(answer):
            answer = answer(dict(args or {}))
        if isinstance(answer, GuestmemfsError):
            raise answer
        return answer

    def serves(self, **changes: Any) -> None:
        """Answer ping as a daemon that is well."""
        self.answers["ping"] = {"pid": 41, "generation": 3, "state": "serving", "stall_ns": None, **changes}
