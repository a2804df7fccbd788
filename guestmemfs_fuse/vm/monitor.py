"""One QEMU's machine protocol monitor: connect, execute, and what this QEMU is able to do.

Owns the QMP connection. A monitor serves one client at a time: a second one gets no greeting, which is
reported as such instead of waiting for ever. Called by `save`, `restore` and the CLI; everything else in
this room sees only the `Monitor` protocol, so that tests can put a scripted one in its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from qemu.qmp import ExecuteError, QMPClient, QMPError

from guestmemfs_fuse.linux import process
from guestmemfs_fuse.linux.patience import patient
from guestmemfs_fuse.vm.errors import MonitorError
from guestmemfs_fuse.vm.finish import finished

CONNECT_TIMEOUT_S = patient(5.0)


class Monitor(Protocol):
    """What the steps of a live update need from a VMM."""

    @property
    def pid(self) -> int:
        """Process id of the VMM."""

    async def execute(self, command: str, **arguments: object) -> Any:
        """Run one QMP command and return what it returned.

        arguments: QMP names with `_` for `-`. Raises MonitorError when QEMU refuses it or hangs up.
        """


@dataclass(frozen=True, slots=True)
class Version:
    """A QEMU version, for messages only: abilities are probed, never derived from it."""

    major: int
    minor: int
    micro: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.micro}"


@dataclass(frozen=True, slots=True)
class Abilities:
    """What this QEMU's monitor says it knows."""

    version: Version
    ignore_shared: bool
    cpr_reboot: bool
    file_uri: bool


class QmpMonitor:
    """A connected monitor; made by `connect`."""

    def __init__(self, client: QMPClient, pid: int) -> None:
        self._client = client
        self._pid = pid

    @property
    def pid(self) -> int:
        """Process id of the VMM, as the socket's peer credentials name it."""
        return self._pid

    async def execute(self, command: str, **arguments: object) -> Any:
        """Run one command; see `Monitor.execute`."""
        try:
            return await self._client.execute(command, qmp_arguments(arguments) or None)
        except ExecuteError as error:
            raise MonitorError(f"QEMU refused {command}: {error}") from error
        except QMPError as error:
            raise MonitorError(f"QEMU hung up during {command}: {error}") from error


def qmp_arguments(arguments: Mapping[str, object]) -> dict[str, object]:
    """Python keyword names to QMP's: max_bandwidth becomes max-bandwidth."""
    return {name.replace("_", "-"): value for name, value in arguments.items()}


@asynccontextmanager
async def connect(qmp_path: Path, *, timeout_s: float = CONNECT_TIMEOUT_S) -> AsyncIterator[QmpMonitor]:
    """Connect to the monitor socket at qmp_path; disconnects on exit, whatever state QEMU is in.

    Raises MonitorError when nobody listens there, or nobody greets within timeout_s seconds.
    """
    client = QMPClient("guestmemfs")
    # It reports through exceptions; its own log lines would say the same a second time.
    client.logger.setLevel(logging.CRITICAL)
    try:
        async with asyncio.timeout(timeout_s):
            sock = await _open_socket(qmp_path)
            await client.connect(sock)
    except TimeoutError:
        raise MonitorError(
            f"no greeting from {qmp_path} within {timeout_s:g} s",
            hint="a monitor serves one client at a time: disconnect the other one or give QEMU a second",
        ) from None
    except (OSError, QMPError) as error:
        raise MonitorError(f"cannot connect to the monitor {qmp_path}: {_reason(error)}") from error
    try:
        yield QmpMonitor(client, process.peer(sock)[0])
    finally:
        # After `quit` the connection ends from the other side, which disconnect() reports as an error.
        with contextlib.suppress(QMPError, OSError, EOFError):
            await finished(client.disconnect())


async def _open_socket(qmp_path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, str(qmp_path))
    except BaseException:
        sock.close()
        raise
    return sock


def _reason(error: BaseException) -> str:
    cause: BaseException = getattr(error, "exc", error)
    return getattr(cause, "strerror", None) or str(cause) or type(cause).__name__


async def probe(monitor: Monitor) -> Abilities:
    """Ask a monitor what it can do. Raises MonitorError.

    Capability names come from query-migrate-capabilities. `mode` and the file: address are found by
    their enum values in the QMP schema, where type names are masked but values are not.
    """
    version = (await monitor.execute("query-version"))["qemu"]
    capabilities = {entry["capability"] for entry in await monitor.execute("query-migrate-capabilities")}
    schema = await monitor.execute("query-qmp-schema")
    enums = [frozenset(entity["values"]) for entity in schema if entity["meta-type"] == "enum"]
    return Abilities(
        version=Version(version["major"], version["minor"], version["micro"]),
        ignore_shared="x-ignore-shared" in capabilities,
        cpr_reboot=any({"normal", "cpr-reboot"} <= values for values in enums),
        file_uri=any({"socket", "exec", "file"} <= values for values in enums),
    )
