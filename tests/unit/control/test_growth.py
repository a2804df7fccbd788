"""resize_file tells how far a growing file is, from what the kernel says of its memory, until it is done."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from guestmemfs_fuse.control import handlers
from guestmemfs_fuse.control.handlers import Handlers
from guestmemfs_fuse.core.errors import RegionFullError
from guestmemfs_fuse.core.evolve import apply
from guestmemfs_fuse.core.records import Made, Transaction
from guestmemfs_fuse.core.state import State, new_state
from guestmemfs_fuse.core.types import ROOT_INO, Ino
from guestmemfs_fuse.engine.engine import Engine
from guestmemfs_fuse.region.base import BackingStat

MIB = 1 << 20
FILE = Ino(2)


class GrowingEngine:
    """One empty file; growing it takes until it was told of `after` times, and may fail then."""

    def __init__(self, after: int, error: Exception | None = None) -> None:
        self.state: State = new_state(region_bytes=64 * MIB, block_bytes=2 * MIB, now_ns=1)
        apply(self.state, Transaction((Made(ROOT_INO, b"ram", FILE, 0o100600, 0, 0, 0, b"", 1),)))
        self.region = SimpleNamespace(block_bytes=2 * MIB, stat=self.stat)
        self.memory = SimpleNamespace(resize=self.resize)
        self.kernel = SimpleNamespace(invalidate_inode=lambda ino: None)
        self.told: list[Mapping[str, object]] = []
        self._after, self._error, self._seen = after, error, trio.Event()
        self._allocated_bytes = 0

    def stat(self, inode: Any) -> BackingStat:
        self._allocated_bytes += 4 * MIB
        return BackingStat(0, self._allocated_bytes)

    async def resize(self, ino: Ino, size_bytes: int, *, force: bool) -> None:
        if self._after:
            await self._seen.wait()
        if self._error is not None:
            raise self._error

    async def progress(self, values: Mapping[str, object]) -> None:
        self.told.append(dict(values))
        if len(self.told) == self._after:
            self._seen.set()


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(handlers, "_TELL_EVERY_S", 0)


def resize(engine: GrowingEngine, size_bytes: int) -> None:
    table = Handlers(cast(Engine, engine))
    args = {"path": "/ram", "size_bytes": size_bytes, "force": False}
    trio.run(table.resize_file, args, engine.progress)


def test_it_tells_blocks_that_the_file_has_of_those_it_will_have() -> None:
    engine = GrowingEngine(after=3)
    resize(engine, 11 * MIB)  # six blocks
    # A fourth may be on its way when the work ends.
    assert engine.told[:3] == [{"done": done * MIB, "total": 12 * MIB} for done in (4, 8, 12)]


def test_a_file_that_does_not_grow_is_not_looked_at() -> None:
    engine = GrowingEngine(after=0)
    resize(engine, 0)
    assert engine.told == []


def test_a_refusal_arrives_alone() -> None:
    """In a nursery's group, which the server takes apart (control/server)."""
    with pytest.raises(ExceptionGroup) as caught:
        resize(GrowingEngine(after=1, error=RegionFullError()), 4 * MIB)
    (only,) = caught.value.exceptions
    assert isinstance(only, RegionFullError)
