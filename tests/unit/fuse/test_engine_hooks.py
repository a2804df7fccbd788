"""The relay's hooks over an engine on fakes."""

from __future__ import annotations

import stat

import pytest
import trio

from guestmemfs_fuse.core.errors import MetadataWriteError
from guestmemfs_fuse.core.types import ROOT_INO, BackingId
from guestmemfs_fuse.fuse.engine_hooks import EngineHooks
from guestmemfs_fuse.fuse.hooks import Request
from tests.unit.engine.fakes import Bench


def test_regression_a_nameless_file_whose_caller_gets_an_error_is_reaped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its backing id could not be journaled; it was kept as if the reply were on its way."""
    bench = Bench()

    def full_from_now_on(backing_fd: int) -> BackingId:
        bench.journal.failing = True
        return BackingId(7)

    monkeypatch.setattr(bench.kernel, "backing_open", full_from_now_on)
    request = Request(8, False, ROOT_INO, 0, 0, 1)
    with pytest.raises(MetadataWriteError):
        trio.run(EngineHooks(bench.engine).tmpfile, request, stat.S_IFREG | 0o600, 0, 0)
    bench.journal.failing = False
    assert bench.engine.orphans.sweep() == 1
    assert not bench.engine.state.orphans
