"""The part of QMP that save and restore share: parameters, addresses, and waiting for the end.

Owns no state. Which of QEMU's two ways is used was probed (`monitor.probe`): `mode=cpr-reboot` with a file:
address where the monitor knows them (QEMU >= 8.2), x-ignore-shared with exec:cat before. In both, shared
file-backed RAM stays out of the stream only because of the x-ignore-shared capability.
"""

from __future__ import annotations

import asyncio
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from guestmemfs_fuse.core.errors import UnsupportedError
from guestmemfs_fuse.vm.errors import MonitorError
from guestmemfs_fuse.vm.monitor import Abilities, Monitor

FIRST_PAUSE_S = 0.001
LONGEST_PAUSE_S = 0.05
UNDER_WAY = frozenset({"setup", "active", "device", "pre-switchover", "wait-unplug", "cancelling"})


@dataclass(frozen=True, slots=True)
class Method:
    """How device state travels between a VMM and a file."""

    is_ram_in_place: bool
    uses_cpr: bool
    uses_file_uri: bool

    def outgoing_uri(self, path: Path) -> str:
        """Address to migrate to."""
        return f"file:{path}" if self.uses_file_uri else f"exec:cat > {shlex.quote(str(path))}"

    def incoming_uri(self, path: Path) -> str:
        """Address to load from."""
        return f"file:{path}" if self.uses_file_uri else f"exec:cat {shlex.quote(str(path))}"


def choose_method(abilities: Abilities, *, is_ram_in_place: bool) -> Method:
    """The best way this VMM knows. Raises UnsupportedError when it cannot leave RAM where it is."""
    if is_ram_in_place and not abilities.ignore_shared:
        raise UnsupportedError(
            f"QEMU {abilities.version} has no x-ignore-shared capability",
            hint="it came with QEMU 4.0: upgrade",
        )
    uses_cpr = is_ram_in_place and abilities.cpr_reboot
    return Method(is_ram_in_place, uses_cpr, abilities.file_uri)


async def configure(monitor: Monitor, method: Method) -> None:
    """Set capability, bandwidth and mode for one migration, in or out. Raises MonitorError."""
    capability = {"capability": "x-ignore-shared", "state": method.is_ram_in_place}
    await monitor.execute("migrate-set-capabilities", capabilities=[capability])
    # 0 is no limit; the default of 128 MiB/s would stretch the blackout.
    await monitor.execute("migrate-set-parameters", max_bandwidth=0)
    if method.uses_cpr:
        await monitor.execute("migrate-set-parameters", mode="cpr-reboot")


async def unconfigure(monitor: Monitor, method: Method) -> None:
    """Back to what an ordinary migration expects. Raises MonitorError."""
    if method.uses_cpr:
        await monitor.execute("migrate-set-parameters", mode="normal")
    capability = {"capability": "x-ignore-shared", "state": False}
    await monitor.execute("migrate-set-capabilities", capabilities=[capability])


async def wait_until_over(monitor: Monitor, *, timeout_s: float) -> dict[str, Any]:
    """Poll query-migrate until the migration ended, one way or the other, and return its last answer.

    Raises MonitorError when it has not ended within timeout_s seconds.
    """
    deadline = time.monotonic() + timeout_s
    pause_s = FIRST_PAUSE_S
    while True:
        info: dict[str, Any] = await monitor.execute("query-migrate")
        # Just after migrate-incoming there is no status at all yet.
        if info.get("status", "setup") not in UNDER_WAY:
            return info
        if time.monotonic() > deadline:
            raise MonitorError(f"the transfer of device state did not end within {timeout_s:g} s")
        await asyncio.sleep(pause_s)
        pause_s = min(pause_s * 1.5, LONGEST_PAUSE_S)


async def wait_until_completed(monitor: Monitor, *, timeout_s: float) -> dict[str, Any]:
    """Like `wait_until_over`, but anything except success raises MonitorError with QEMU's reason."""
    info = await wait_until_over(monitor, timeout_s=timeout_s)
    if info["status"] != "completed":
        reason = info.get("error-desc", "no reason given")
        raise MonitorError(f"the transfer of device state ended as {info['status']}: {reason}")
    return info


async def cancel(monitor: Monitor, *, timeout_s: float) -> None:
    """Stop an outgoing migration if one is under way, and wait until it is. Raises MonitorError."""
    info = await monitor.execute("query-migrate")
    if info.get("status") in UNDER_WAY:
        await monitor.execute("migrate_cancel")
        await wait_until_over(monitor, timeout_s=timeout_s)
