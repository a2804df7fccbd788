"""Runs inside a VM: a tiny guest by `guestmemfs run`, its daemon killed, a live update.

argv: output file, --ram MiB, --path PATH, [--restore]. The instance must be mounted. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import tempfile
from pathlib import Path
from typing import Any

from guestmemfs_fuse.metadata.instance import Instance, instance_of_path
from guestmemfs_fuse.vm import restore as restoring
from guestmemfs_fuse.vm.monitor import connect
from guestmemfs_fuse.vm.save import SaveReport, save
from tests.guest.rig import Guest

from . import tiny_guest
from .inside_instances import COMMAND, ask, kill_daemon, mount, run


class RunGuest(Guest):
    def command(self, *, is_shared: bool = True) -> list[str]:
        # Without align= QEMU takes the page size that `run` shows it: 2M would be refused on 1G pages.
        plain = [each.replace(",align=2M", "") for each in super().command(is_shared=is_shared)]
        return [COMMAND, "run", "--", *plain]


def mapped(pid: int, names: str) -> list[tuple[str, int]]:
    """(permissions, kernel page size in KiB) of the mappings whose name ends so."""
    smaps = Path(f"/proc/{pid}/smaps").read_text()
    pattern = rf"^[0-9a-f]+-[0-9a-f]+ (\S+) .*{names}\n(?:(?!KernelPageSize).*\n)*KernelPageSize: +(\d+) kB"
    return [(permissions, int(kib)) for permissions, kib in re.findall(pattern, smaps, re.M)]


def run_save(guest: Guest, state_path: Path) -> SaveReport:
    async def talk() -> SaveReport:
        async with connect(guest.qmp_path) as monitor:
            return await save(monitor, state_path, qmp_path=guest.qmp_path)

    return asyncio.run(talk())


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("output", type=Path)
    parser.add_argument("--path", type=Path, required=True)
    parser.add_argument("--mib", type=int, required=True)
    parser.add_argument("--names", default="/region")
    parser.add_argument("--restore", action="store_true")
    options = parser.parse_args()
    instance, _ = instance_of_path(str(options.path))
    found: dict[str, Any] = {}
    with RunGuest(
        tiny_guest.boot_files(), Path(tempfile.mkdtemp()), options.path, options.mib, pattern_mib=2
    ) as guest:
        guest.start()
        found["mapped"] = mapped(guest.pid, options.names)
        _kill_daemon(found, instance, guest)
        if options.restore:
            _live_update(found, instance, guest)
        found["counts"] = guest.counts()
        found["complaints"] = guest.complaints()
        found["pattern"] = guest.pattern_now() == guest.pattern_at_boot()
    options.output.write_text(json.dumps(found))
    print(json.dumps(found))


def _kill_daemon(found: dict[str, Any], instance: Instance, guest: Guest) -> None:
    status = ask(instance.name, "status")
    found["mapped_by"] = [each["comm"] for row in status["files"] for each in row["mapped_by"]]
    found["generations"] = kill_daemon(instance.name) - status["generation"]
    guest.wait_progress(2)


def _live_update(found: dict[str, Any], instance: Instance, guest: Guest) -> None:
    restoring.START_TIMEOUT_S = 90.0  # an emulated launcher takes its time
    state = Path(tempfile.mkdtemp()) / "state"
    run_save(guest, state)
    run(COMMAND, "umount", instance.name)
    mount(instance.name)
    stood_at = guest.count()
    report = asyncio.run(restoring.restore(state, command=guest.command()))
    guest.adopt(report.pid, report.child)
    guest.wait_count(stood_at + 2, 120)
    found["mapped after"] = mapped(guest.pid, "/region")


if __name__ == "__main__":
    main()
