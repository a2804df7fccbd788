"""The relay's hooks over an engine on fakes."""

from __future__ import annotations

import stat

import pytest
import trio

from guestmemfs_fuse.core.errors import StaleInodeError
from guestmemfs_fuse.core.state import Inode
from guestmemfs_fuse.core.types import ROOT_INO
from guestmemfs_fuse.fuse.engine_hooks import EngineHooks
from guestmemfs_fuse.fuse.hooks import Request
from guestmemfs_fuse.region.base import BackingStat
from tests.unit.engine.fakes import Bench


def test_regression_a_nameless_file_whose_caller_gets_an_error_is_reaped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was kept as if the reply were on its way."""
    bench = Bench()

    def gone(inode: Inode) -> BackingStat:
        raise StaleInodeError()

    request = Request(8, False, ROOT_INO, 0, 0, 1)
    with monkeypatch.context() as patch, pytest.raises(StaleInodeError):
        patch.setattr(bench.region, "stat", gone)
        trio.run(EngineHooks(bench.engine).tmpfile, request, stat.S_IFREG | 0o600, 0, 0)
    bench.engine.orphans.sweep()
    assert not bench.engine.state.orphans
    assert not bench.kernel.open_ids
