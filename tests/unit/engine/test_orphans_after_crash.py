"""What a killed daemon had begun for its caller and the kernel does not know yet."""

from __future__ import annotations

import stat
from dataclasses import dataclass

import trio

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.types import ROOT_INO
from guestmemfs_fuse.engine.engine import Engine
from tests.unit.engine.fakes import Bench


@dataclass(frozen=True)
class Asked:
    unique: int
    resent: bool = False
    pid: int = 0


def test_regression_an_o_tmpfile_whose_answer_died_with_the_daemon_is_not_reaped_by_the_next() -> None:
    """The sweep at start found an orphan the kernel did not know, and the resent request got ESTALE."""
    bench = Bench()
    nameless = cmd.Make(ROOT_INO, b"", stat.S_IFREG | 0o600, 0, 0)
    made = bench.engine.make(nameless, Asked(8))
    successor = Engine(bench.engine.state, bench.journal, bench.region, bench.kernel)
    successor.recover()
    trio.run(successor.sweep)
    assert successor.make(nameless, Asked(8, resent=True)) == made
    assert made in bench.region.sizes
    successor.orphans.forgotten([made])
    assert made not in successor.state.inodes


def test_regression_backing_ids_that_died_between_kernel_and_journal_are_given_back() -> None:
    bench = Bench()
    ino = bench.engine.make(cmd.Make(ROOT_INO, b"f", stat.S_IFREG | 0o600, 0, 0), Asked(8))
    kept = bench.engine.backings.ensure(ino)
    with open("/dev/null", "rb") as file:
        lost = bench.kernel.backing_open(file.fileno())
    trio.run(bench.engine.sweep)
    assert bench.kernel.open_ids == {kept}
    assert lost not in bench.kernel.open_ids
