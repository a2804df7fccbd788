"""Callers who give up while, or before, their allocation is worked on."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

import pytest
import trio

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.errors import InterruptedFsError
from guestmemfs_fuse.core.types import ROOT_INO, Ino
from tests.unit.engine.fakes import BLOCK, Bench


@dataclass(frozen=True)
class Asked:
    unique: int
    resent: bool = False
    pid: int = 0


def make_file(bench: Bench) -> Ino:
    return bench.engine.make(cmd.Make(ROOT_INO, b"ram", stat.S_IFREG | 0o600, 0, 0))


def test_regression_an_interrupt_that_overtook_its_request_was_lost() -> None:
    bench = Bench()
    ino = make_file(bench)
    bench.engine.memory.interrupt(70)
    with pytest.raises(InterruptedFsError):
        trio.run(bench.engine.memory.resize, ino, 4 * BLOCK, Asked(70))
    assert bench.engine.state.inodes[ino].size_bytes == 0
    assert bench.region.use().used_bytes == 0


def test_an_interrupt_is_for_its_own_request_only_and_once() -> None:
    bench = Bench()
    ino = make_file(bench)
    bench.engine.memory.interrupt(70)
    trio.run(bench.engine.memory.resize, ino, BLOCK, Asked(71))
    with pytest.raises(InterruptedFsError):
        trio.run(bench.engine.memory.resize, ino, 2 * BLOCK, Asked(70))
    trio.run(bench.engine.memory.resize, ino, 2 * BLOCK, Asked(70))
    assert bench.engine.state.inodes[ino].size_bytes == 2 * BLOCK


def test_interrupts_of_calls_that_never_wait_do_not_pile_up() -> None:
    bench = Bench()
    ino = make_file(bench)
    for unique in range(100_000):
        bench.engine.memory.interrupt(unique)
    trio.run(bench.engine.memory.resize, ino, BLOCK, Asked(1))
    assert bench.engine.state.inodes[ino].size_bytes == BLOCK


def test_a_truncate_is_ended_only_for_a_caller_that_dies() -> None:
    bench = Bench()
    ino = make_file(bench)
    bench.engine.memory.interrupt(70)
    trio.run(bench.engine.memory.resize, ino, BLOCK, Asked(70, pid=os.getpid()))
    assert bench.engine.state.inodes[ino].size_bytes == BLOCK
    gone = 1 << 22  # above what pid_max can be
    bench.engine.memory.interrupt(71)
    with pytest.raises(InterruptedFsError):
        trio.run(bench.engine.memory.resize, ino, 2 * BLOCK, Asked(71, pid=gone))


def test_an_fallocate_is_ended_for_any_signal() -> None:
    bench = Bench()
    ino = make_file(bench)
    bench.engine.memory.interrupt(70)
    with pytest.raises(InterruptedFsError):
        trio.run(bench.engine.memory.fallocate, ino, 0, 0, BLOCK, Asked(70, pid=os.getpid()))
