"""How the way of saving is chosen, and how its end is told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guestmemfs_fuse.core.errors import UnsupportedError
from guestmemfs_fuse.vm import migration
from guestmemfs_fuse.vm.errors import MonitorError
from guestmemfs_fuse.vm.migration import Method
from guestmemfs_fuse.vm.monitor import Abilities, Version

OLD = Abilities(Version(7, 2, 22), ignore_shared=True, cpr_reboot=False, file_uri=False)
NEW = Abilities(Version(10, 0, 2), ignore_shared=True, cpr_reboot=True, file_uri=True)


class Scripted:
    """Answers query-migrate with one scripted answer after the other."""

    pid = 0

    def __init__(self, *answers: dict[str, Any]) -> None:
        self._answers: Iterator[dict[str, Any]] = iter(answers)
        self.commands: list[str] = []

    async def execute(self, command: str, **arguments: object) -> Any:
        self.commands.append(command)
        return next(self._answers) if command == "query-migrate" else {}


@pytest.mark.parametrize(
    ("abilities", "is_ram_in_place", "method"),
    [
        (OLD, True, Method(True, uses_cpr=False, uses_file_uri=False)),
        (OLD, False, Method(False, uses_cpr=False, uses_file_uri=False)),
        (NEW, True, Method(True, uses_cpr=True, uses_file_uri=True)),
        (NEW, False, Method(False, uses_cpr=False, uses_file_uri=True)),
    ],
)
def test_method_follows_from_what_was_probed(
    abilities: Abilities, is_ram_in_place: bool, method: Method
) -> None:
    assert migration.choose_method(abilities, is_ram_in_place=is_ram_in_place) == method


def test_a_vmm_that_cannot_leave_ram_in_place_is_refused_unless_ram_goes_along() -> None:
    ancient = Abilities(Version(3, 1, 0), ignore_shared=False, cpr_reboot=False, file_uri=False)
    with pytest.raises(UnsupportedError, match=r"3\.1\.0"):
        migration.choose_method(ancient, is_ram_in_place=True)
    assert not migration.choose_method(ancient, is_ram_in_place=False).is_ram_in_place


def test_addresses_quote_for_the_shell_and_only_for_it() -> None:
    path = Path("/run/a b/$(reboot)")
    shell = Method(True, uses_cpr=False, uses_file_uri=False)
    assert shell.outgoing_uri(path) == "exec:cat > '/run/a b/$(reboot)'"
    assert shell.incoming_uri(path) == "exec:cat '/run/a b/$(reboot)'"
    assert Method(True, uses_cpr=True, uses_file_uri=True).incoming_uri(path) == f"file:{path}"


def test_waiting_ends_with_success_after_every_state_on_the_way() -> None:
    on_the_way: list[dict[str, Any]] = [{}, {"status": "setup"}, {"status": "active"}, {"status": "device"}]
    monitor = Scripted(*on_the_way, {"status": "completed", "ram": 1})
    info = asyncio.run(migration.wait_until_completed(monitor, timeout_s=5))
    assert info["ram"] == 1


@pytest.mark.parametrize("status", ["failed", "cancelled", "something-new"])
def test_any_other_end_is_an_error_with_qemus_reason(status: str) -> None:
    monitor = Scripted({"status": status, "error-desc": "No space left on device"})
    with pytest.raises(MonitorError, match=f"{status}: No space left on device"):
        asyncio.run(migration.wait_until_completed(monitor, timeout_s=5))


def test_cancel_touches_only_what_is_under_way() -> None:
    over = Scripted({"status": "failed"})
    asyncio.run(migration.cancel(over, timeout_s=5))
    assert "migrate_cancel" not in over.commands
    active = Scripted({"status": "active"}, {"status": "cancelling"}, {"status": "cancelled"})
    asyncio.run(migration.cancel(active, timeout_s=5))
    assert active.commands.count("query-migrate") == 3
