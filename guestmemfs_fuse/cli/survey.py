"""One instance in one look: facts from outside, the daemon's answer to a ping, and what to do about it.

Called by `list` and `status`. Never waits long: a daemon that does not answer is a finding, not a failure.
"""

from __future__ import annotations

from dataclasses import dataclass

from guestmemfs_fuse.cli import daemons, sight
from guestmemfs_fuse.cli.daemons import Pong
from guestmemfs_fuse.cli.sight import Condition, Sight
from guestmemfs_fuse.control.client import NotRunningError
from guestmemfs_fuse.core.errors import DaemonError
from guestmemfs_fuse.metadata.instance import Instance

PING_S = 2.0
_STATES = {Condition.SERVING: "serving", Condition.SILENT: "serving", Condition.FROZEN: "frozen"}


@dataclass(frozen=True, slots=True)
class Finding:
    """condition: see sight.Condition; pong: None when no daemon answered."""

    instance: Instance
    seen: Sight
    condition: Condition
    pong: Pong | None

    @property
    def state(self) -> str:
        """serving, frozen or stopped: whether calls on the mount can be expected to be answered."""
        return state_word(self.condition)

    @property
    def advice(self) -> str | None:
        """What to do about it, None when all is well."""
        name, mountpoint = self.instance.name, self.instance.config.mountpoint
        if self.pong is not None and self.pong.is_abandoned:
            what = "nobody would start the next daemon"
            if self.instance.config.kind == "memfd":
                what = "its memory ends with the daemon, and files cannot be added"
            return f"its holder was killed, {what}: `guestmemfs restart {name}` starts another holder"
        match self.condition:
            case Condition.DEAD_MOUNT if self.instance.config.kind == "memfd" and not self.seen.holder_pid:
                # Its memory was nowhere but in its holder.
                return f"its memory is gone: `guestmemfs mount {mountpoint} --size SIZE` starts empty"
            case Condition.DEAD_MOUNT:
                why = f"given up ({self.seen.last_words.reason}); " if self.seen.last_words else ""
                return f"{why}`guestmemfs mount {mountpoint}` brings it back"
            case Condition.SILENT if self.seen.mount is None:
                pid = daemons.pid_by_lock(self.instance.paths.lock)
                return f"unmounted, but its daemon does not end: `kill -9 {pid}`"
            case Condition.SILENT:
                return f"the daemon does not answer: `guestmemfs restart {name}`"
            case Condition.RESTARTING:
                return "the daemon died, its holder is starting another"
            case Condition.LOST:
                when = "since the host was booted" if sight.is_of_earlier_boot(self.instance) else "is gone"
                return f"its memory {when}: `guestmemfs mount` starts empty, `destroy` forgets it"
            case Condition.FROZEN:
                return f"`guestmemfs thaw {name}` allows modifications"
        return None


def state_word(condition: Condition) -> str:
    """The condition as one of the three words of `state`."""
    return _STATES.get(condition, "stopped")


def examine(instance: Instance, *, wait_s: float = 0.0) -> Finding:
    """Look at an instance. wait_s: how long to wait for a daemon that is just being replaced."""
    seen = sight.look(instance)
    condition, pong = seen.condition, None
    if condition in (Condition.SERVING, Condition.RESTARTING):
        try:
            pong = daemons.ping(instance, timeout_s=PING_S, wait_s=wait_s)
            condition = Condition.FROZEN if pong.state == "frozen" else Condition.SERVING
        except NotRunningError:
            # It holds the lock, or its holder starts it, but does not listen yet (or not any more).
            condition = Condition.RESTARTING
        except DaemonError:
            condition = Condition.SILENT
    return Finding(instance, seen, condition, pong)
