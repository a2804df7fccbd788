"""Whether systemd is about to start an instance's next daemon.

Asked only where a mount stands without daemon and holder: then it is either dead, or its unit is between
two daemons (systemd keeps the connection) and nobody may take the mount away. Called by sight.
"""

from __future__ import annotations

import os
import subprocess

SYSTEMD = "/run/systemd/system"
"""There while systemd is PID 1 (sd_booted(3))."""
_ASK_S = 5.0


def will_come_back(name: str) -> bool:
    """Whether guestmemfs@NAME.service is being started or started again."""
    if not os.path.isdir(SYSTEMD) or "+" in name:
        return False
    command = ["systemctl", "show", "--property=ActiveState", "--value", f"guestmemfs@{name}.service"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_ASK_S, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return is_between_daemons(done.stdout.strip())


def is_between_daemons(active_state: str) -> bool:
    """What ActiveState= means for the mount: failed and inactive are final, the rest is not."""
    return active_state in ("activating", "reloading", "active", "deactivating")
