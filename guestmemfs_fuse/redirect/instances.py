"""The Resolver of real life: our mounts are found in the instance registry, layouts come from the daemon.

Invariants: asks the control socket only, never the mount. A daemon that is being restarted is waited for.
Names are unique in one registry only: an instance that is seen to be mounted is not taken for another
registry's of the same name (a container's, say), whose files' numbers mean other blocks.
Who may not read the registry (anybody but root) still has mounts of ours recognised: passthrough needs no
answer, only a private mapping made shared. Called through `Locator`, in the tracer's process only.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from guestmemfs_fuse.control.client import RESTART_WAIT_S, call
from guestmemfs_fuse.core.errors import DaemonError, UnknownTargetError
from guestmemfs_fuse.linux.mountinfo import OURS, MountEntry, find_mountpoint
from guestmemfs_fuse.metadata.instance import Instance, all_instances
from guestmemfs_fuse.redirect import arch
from guestmemfs_fuse.redirect.layout import Layout
from guestmemfs_fuse.redirect.resolve import RegionFacts

UNKNOWN_KIND = "unknown"
ANSWER_S = 10.0


class InstanceResolver:
    """Asks the daemons of this host's instances."""

    def region_of(self, mount: MountEntry) -> RegionFacts | None:
        """From the instance's configuration; None for mounts that are not ours."""
        if mount.fstype != OURS:
            return None
        instance = _instance_of(mount)
        if instance is None:
            return RegionFacts(UNKNOWN_KIND, arch.PAGE_BYTES)
        return RegionFacts(instance.config.kind, instance.config.block_bytes)

    def layout(self, mount: MountEntry, ino: int) -> Layout:
        """The daemon's answer. Raises DaemonError and whatever else the daemon says is wrong."""
        instance = _instance_of(mount)
        if instance is None:
            raise UnknownTargetError(
                f"the daemon of {mount.source} cannot be asked",
                hint="run as root, with the GUESTMEMFS_RUN_DIR that `guestmemfs mount` had",
            )
        state_dir = instance.paths.state_dir
        reply = call(state_dir, "layout", {"ino": ino}, timeout_s=ANSWER_S, wait_s=RESTART_WAIT_S)
        if not isinstance(reply, Mapping):
            raise DaemonError(f"the daemon's layout of inode {ino} makes no sense: {reply!r}")
        return Layout.from_reply(cast(Mapping[str, Any], reply))


def _instance_of(mount: MountEntry) -> Instance | None:
    """The instance behind a mount, seen from whatever mount namespace or through whatever bind mount."""
    try:
        instances = [each for each in all_instances() if isinstance(each, Instance)]
    except OSError:
        return None
    named = [each for each in instances if each.name == mount.source]
    placed = [each for each in instances if each.config.mountpoint == mount.mountpoint]
    return next((each for each in named + placed if _may_be(each, mount)), None)


def _may_be(instance: Instance, mount: MountEntry) -> bool:
    """Whether nothing that we see speaks against it: in our namespace its mountpoint has that superblock."""
    seen = find_mountpoint(instance.config.mountpoint, OURS)
    return seen is None or seen.dev == mount.dev
