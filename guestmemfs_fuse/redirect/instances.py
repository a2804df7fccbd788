"""The Resolver of real life: our mounts are found in the instance registry, layouts come from the daemon.

Invariant: asks the control socket only, never the mount. A daemon that is being restarted is waited for.
Called by the tracer through `Locator`, in the tracer's process only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from guestmemfs_fuse.control.client import call
from guestmemfs_fuse.core.errors import DaemonError, UnknownTargetError
from guestmemfs_fuse.linux.mountinfo import MountEntry
from guestmemfs_fuse.metadata.instance import Instance, all_instances
from guestmemfs_fuse.redirect.layout import Layout
from guestmemfs_fuse.redirect.resolve import RegionFacts

FSTYPE = "fuse.guestmemfs"
RESTART_S = 5.0
ANSWER_S = 10.0


class InstanceResolver:
    """Asks the daemons of this host's instances."""

    def region_of(self, mount: MountEntry) -> RegionFacts | None:
        """From the instance's configuration; None for mounts that are not ours.

        Raises UnknownTargetError when a mount of ours is in no registry this user can read.
        """
        if mount.fstype != FSTYPE:
            return None
        config = _instance_of(mount).config
        return RegionFacts(config.kind, config.block_bytes)

    def layout(self, mount: MountEntry, ino: int) -> Layout:
        """The daemon's answer. Raises DaemonError and whatever else the daemon says is wrong."""
        state_dir = _instance_of(mount).paths.state_dir
        reply = call(state_dir, "layout", {"ino": ino}, timeout_s=ANSWER_S, wait_s=RESTART_S)
        if not isinstance(reply, Mapping):
            raise DaemonError(f"the daemon's layout of inode {ino} makes no sense: {reply!r}")
        return Layout.from_reply(cast(Mapping[str, Any], reply))


def _instance_of(mount: MountEntry) -> Instance:
    """The instance behind a mount, seen from whatever mount namespace or through whatever bind mount."""
    instances = [each for each in all_instances() if isinstance(each, Instance)]
    for instance in instances:
        if instance.name == mount.source:
            return instance
    for instance in instances:
        if instance.config.mountpoint == mount.mountpoint:
            return instance
    raise UnknownTargetError(
        f"the guestmemfs mount {mount.source} at {mount.mountpoint} is no instance of this host",
        hint="run as root, and with the GUESTMEMFS_RUN_DIR that `guestmemfs mount` had",
    )
