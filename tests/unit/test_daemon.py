"""The daemon's own decisions, without a mount."""

from __future__ import annotations

import gc
import importlib
import stat
import threading
from typing import Any

import pytest
import trio

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.errors import InterruptedFsError
from guestmemfs_fuse.core.types import ROOT_INO
from guestmemfs_fuse.engine.instance_lock import InstanceLock
from guestmemfs_fuse.fuse.phase import Ended
from guestmemfs_fuse.handover.fdstore import Notifier
from guestmemfs_fuse.metadata.instance import Paths
from tests.unit.cli.fakes import a_config
from tests.unit.engine.fakes import Bench

DEADLINE_S = 20.0


class EndedRelay:
    """Of a connection that was aborted."""

    async def run(self, *, pump: bool) -> Ended:
        return Ended.ABORTED


@pytest.fixture
def daemon_class(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Its import lets the collector forget all there is, which is not for a process that runs tests."""
    monkeypatch.setattr(gc, "freeze", lambda: None)
    return importlib.import_module("guestmemfs_fuse.daemon").Daemon


def test_regression_an_allocation_does_not_keep_a_daemon_whose_mount_is_gone(daemon_class: Any) -> None:
    """Its caller is gone with the mount; a stop waited for it, and failed after twenty seconds."""
    bench = Bench()
    parts = daemon_class(a_config(), Paths("/nowhere"), InstanceLock(-1), Notifier(None), {})
    parts._engine, parts._relay, parts._pump = bench.engine, EndedRelay(), False
    ino = bench.engine.make(cmd.Make(ROOT_INO, b"ram", stat.S_IFREG | 0o600, 0, 0))
    under_way, ended = trio.Event(), threading.Event()

    def fill() -> None:
        trio.from_thread.run_sync(under_way.set)
        assert ended.wait(DEADLINE_S)

    async def grow() -> None:
        try:
            await bench.engine.memory.resize(ino, 1 << 30)
        except InterruptedFsError:
            seen.append("interrupted")

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(grow)
            await under_way.wait()
            await parts._relay_until_it_ends()
            ended.set()

    seen: list[str] = []
    bench.region.on_fill = fill
    bench.region.size_bytes = 1 << 31
    trio.run(main)
    assert seen == ["interrupted"]
    assert bench.engine.state.inodes[ino].size_bytes == 0
    assert bench.region.memory[ino] == 0
