"""The operations of the control socket over an engine on fakes."""

from __future__ import annotations

import stat
import threading
from collections.abc import Mapping
from typing import Any

import pytest
import trio

from guestmemfs_fuse.control.handlers import Handlers
from guestmemfs_fuse.control.protocol import MAX_REPLY_BYTES, Decoder, Reply, encode
from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.extents import FreeMap
from guestmemfs_fuse.core.state import Inode
from guestmemfs_fuse.core.types import ROOT_INO, Extent, Ino
from tests.unit.engine.fakes import Bench


def require_loop() -> None:
    assert threading.current_thread() is threading.main_thread(), "the state changes meanwhile"


class LoopOnly(dict[Ino, Inode]):
    """An inode table that threads must not look at."""

    def __getitem__(self, ino: Ino) -> Inode:
        require_loop()
        return super().__getitem__(ino)


class LoopOnlyBlocks(FreeMap):
    """The same for free blocks."""

    def free_extents(self) -> tuple[Extent, ...]:
        require_loop()
        return super().free_extents()


async def silent(values: Mapping[str, object]) -> None:
    pass


def as_sent(result: object) -> object:
    """What the other end gets of a handler's result."""
    (message,) = Decoder(MAX_REPLY_BYTES).feed(encode(Reply(result)))
    assert isinstance(message, Reply)
    return message.result


@pytest.fixture
def handlers() -> Handlers:
    bench = Bench()
    bench.engine.make(cmd.Make(ROOT_INO, b"ram", stat.S_IFREG | 0o600, 0, 0))
    bench.engine.state.inodes = LoopOnly(bench.engine.state.inodes)
    bench.engine.state.free = LoopOnlyBlocks(4)
    return Handlers(bench.engine)


@pytest.mark.parametrize(("op", "args"), [("map", {"path": "/ram"}), ("picture", {})])
def test_regression_threads_that_measure_files_do_not_read_the_state(
    handlers: Handlers, op: str, args: dict[str, object]
) -> None:
    """A directory that closed its gaps meanwhile showed another file; changing free blocks were an error."""
    answer: Any = as_sent(trio.run(handlers.table()[op], args, silent))
    rows = answer["files"] if op == "picture" else [answer]
    assert [row["path"] for row in rows] == ["/ram"]
