"""A QEMU for unit tests: the run states and QMP commands that a live update uses, nothing else.

Behaves as QEMU does: commands that make no sense in a state are refused. `fail_at` makes the nth command
fail, which is how the tests walk through every point of failure.
"""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import Any

from guestmemfs_fuse.vm.errors import MonitorError
from guestmemfs_fuse.vm.inspect import FileIdentity

SCHEMA_7_2 = [{"meta-type": "enum", "name": "1", "values": ["socket", "exec", "rdma"]}]
SCHEMA_8_2 = [
    {"meta-type": "enum", "name": "1", "values": ["normal", "cpr-reboot"]},
    {"meta-type": "enum", "name": "2", "values": ["socket", "exec", "rdma", "file"]},
    {"meta-type": "object", "name": "3"},
]


class FakeQemu:
    """See the module. Its process is a `cat` that ends when its standard input is closed, as on `quit`."""

    def __init__(self, memory_path: Path, *, is_new: bool = False, fail_at: int | None = None) -> None:
        self.process = subprocess.Popen(
            ["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, cwd=memory_path.parent
        )
        # Popen returns before the kernel has mapped the program: once it answers, its maps are complete.
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(b"\n")
        assert self.process.stdout.readline() == b"\n"
        self.status = "running"
        self.capabilities = {"x-ignore-shared": False, "xbzrle": False}
        self.parameters: dict[str, object] = {"max-bandwidth": 1 << 27}
        if is_new:
            self.parameters["mode"] = "normal"
        self.schema = SCHEMA_8_2 if is_new else SCHEMA_7_2
        self.migration: dict[str, Any] = {}
        self.migration_ends_as = "completed"
        self.state = b"QEVM and the devices"
        self.backend: dict[str, Any] = {
            "type": "memory-backend-file",
            "share": True,
            "mem-path": memory_path.name,
            "discard-data": False,
        }
        self.commands: list[str] = []
        self.uri = ""
        self.fail_at = fail_at
        self.memory_devices: list[dict[str, Any]] = []

    @property
    def pid(self) -> int:
        return self.process.pid

    def end(self) -> None:
        self.process.communicate()

    async def execute(self, command: str, **arguments: Any) -> Any:
        self.commands.append(command)
        if self.fail_at == len(self.commands):
            raise MonitorError(f"QEMU refused {command}: as the test wants")
        handler = getattr(self, "_" + command.replace("-", "_"))
        return handler(**arguments)

    # -- commands ------------------------------------------------------------------------------------

    def _query_version(self) -> Any:
        return {"qemu": {"major": 7, "minor": 2, "micro": 22}}

    def _query_migrate_capabilities(self) -> Any:
        return [{"capability": name, "state": state} for name, state in self.capabilities.items()]

    def _query_qmp_schema(self) -> Any:
        return self.schema

    def _query_status(self) -> Any:
        return {"status": self.status, "running": self.status == "running"}

    def _query_memdev(self) -> Any:
        return [{"id": "ram0", "size": 512 << 20, "share": self.backend["share"]}]

    def _query_memory_devices(self) -> Any:
        return self.memory_devices

    def _qom_list(self, path: str) -> Any:
        assert path == "/objects/ram0"
        return [{"name": name, "type": "any"} for name in self.backend]

    def _qom_get(self, path: str, property: str) -> Any:
        return self.backend[property]

    def _migrate_set_capabilities(self, capabilities: list[dict[str, Any]]) -> None:
        assert self.migration.get("status") != "active", "QEMU refuses this while a migration is under way"
        for entry in capabilities:
            self.capabilities[entry["capability"]] = entry["state"]

    def _migrate_set_parameters(self, **parameters: object) -> None:
        self.parameters.update({name.replace("_", "-"): value for name, value in parameters.items()})

    def _stop(self) -> None:
        self.status = "paused"

    def _cont(self) -> None:
        assert self.status in ("paused", "postmigrate", "running")
        assert self.migration.get("status") != "active"
        self.status = "running"

    def _migrate(self, uri: str) -> None:
        self.uri = uri
        path = uri.removeprefix("file:") if uri.startswith("file:") else shlex.split(uri)[-1]
        Path(path).write_bytes(self.state)
        self.migration = {"status": "active"}

    def _migrate_incoming(self, uri: str) -> None:
        assert self.status == "inmigrate"
        self.uri = uri
        self.migration = {"status": "active"}

    def _query_migrate_parameters(self) -> Any:
        return self.parameters

    def _query_migrate(self) -> Any:
        answer = dict(self.migration)
        if self.migration.get("status") == "active" and self.migration_ends_as != "never":
            self.migration = {"status": self.migration_ends_as, "error-desc": "disk on fire"}
            if self.migration_ends_as == "completed":
                self.status = "postmigrate"
        return answer

    def _migrate_cancel(self) -> None:
        self.migration = {"status": "cancelled"}

    def _quit(self) -> None:
        self.end()


def identify_any(path: Path) -> FileIdentity | None:
    """Takes the executable of the fake's process for its RAM file: a file that it really maps."""
    status = Path("/bin/cat").stat()
    return FileIdentity((status.st_dev >> 8 & 0xFFF, status.st_dev & 0xFF), status.st_ino)
