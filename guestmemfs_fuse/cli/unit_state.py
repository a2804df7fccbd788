"""What systemd has to do with an instance: whether it starts the next daemon, and what its fd store keeps.

Asked only where there is neither daemon nor holder. A mount is then either dead, or its unit is between two
daemons (systemd keeps the connection) and nobody may take the mount away. A memfd region is gone, or in the
store of a unit that was stopped (FileDescriptorStorePreserve=, systemd 254). Called by sight, mount, destroy.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from subprocess import CompletedProcess

SYSTEMD = "/run/systemd/system"
"""There while systemd is PID 1 (sd_booted(3))."""
CARRIES_FROM = 261
"""The first systemd whose fd store goes through a kexec (core: manager_luo_serialize_fd_stores())."""
_ASK_S = 5.0
_POLL_S = 0.1


def will_come_back(name: str) -> bool:
    """Whether guestmemfs@NAME.service is being started or started again."""
    return is_between_daemons(_property(name, "ActiveState"))


def keeps_memory(name: str) -> bool:
    """Whether the fd store of guestmemfs@NAME.service holds something: with no daemon, that is a region."""
    stored = _property(name, "NFileDescriptorStore")
    return stored.isdecimal() and int(stored) > 0


def release_memory(name: str) -> bool:
    """Have systemd close what it keeps for the stopped unit; whether nothing is left."""
    deadline_s = time.monotonic() + _ASK_S
    while keeps_memory(name):
        # Refused while the unit is still on its way from its daemon's end to "inactive".
        _systemctl("clean", "--what=fdstore", unit_of(name))
        if time.monotonic() > deadline_s:
            return False
        time.sleep(_POLL_S)
    return True


def why_not_carried(name: str) -> str | None:
    """None when systemd itself takes the fd store of the unit through a kexec, else why it does not."""
    version = systemd_version()
    if version < CARRIES_FROM:
        return f"this is systemd {version or 'of an unknown version'}, {CARRIES_FROM} is the first that does"
    if _property(name, "FileDescriptorStorePreserve") != "yes":
        return f"{unit_of(name)} has no FileDescriptorStorePreserve=yes"
    return None


def systemd_version() -> int:
    """Of the manager that runs, not of the program that is installed; 0 when it does not say."""
    text = _systemctl("show", "--property=Version", "--value").strip()
    digits = text[: len(text) - len(text.lstrip("0123456789"))]
    return int(digits) if digits else 0


def unit_of(name: str) -> str:
    """The unit that serves an instance of that name."""
    return f"guestmemfs@{name}.service"


def log_of(name: str, lines: int) -> str:
    """The newest lines that the journal has of the unit, of earlier boots too; empty without systemd."""
    if not os.path.isdir(SYSTEMD):
        return ""
    return _run(
        "journalctl", "--no-pager", "--output=short-iso", f"--lines={lines}", f"--unit={unit_of(name)}"
    )


def _property(name: str, wanted: str) -> str:
    if not os.path.isdir(SYSTEMD) or "+" in name:
        return ""
    return _systemctl("show", f"--property={wanted}", "--value", unit_of(name)).strip()


def _systemctl(*arguments: str) -> str:
    return _run("systemctl", *arguments)


def _run(*command: str) -> str:
    import subprocess  # most commands never get here

    try:
        return asked(*command, timeout_s=_ASK_S).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def asked(*command: str, timeout_s: float) -> CompletedProcess[str]:
    """Run a command of systemd's. Raises OSError, TimeoutExpired.

    Without NOTIFY_SOCKET: from 254 on systemctl would report its own exit status in the unit's name.
    """
    import subprocess

    return subprocess.run(
        list(command),
        env={name: value for name, value in os.environ.items() if name != "NOTIFY_SOCKET"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def is_between_daemons(active_state: str) -> bool:
    """What ActiveState= means for the mount: failed and inactive are final, the rest is not."""
    return active_state in ("activating", "reloading", "active", "deactivating")
