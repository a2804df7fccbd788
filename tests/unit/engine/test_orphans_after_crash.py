"""What a killed daemon had begun for its caller and the kernel does not know yet."""

from __future__ import annotations

import stat
from dataclasses import dataclass

import trio

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.types import ROOT_INO, Ino
from guestmemfs_fuse.engine.engine import Engine
from guestmemfs_fuse.engine.orphans import Orphans
from tests.unit.engine.fakes import BLOCK, Bench, forget


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
    forget(successor, made)
    assert made not in successor.state.inodes


def nameless(bench: Bench, unique: int = 8) -> Ino:
    return bench.engine.make(cmd.Make(ROOT_INO, b"", stat.S_IFREG | 0o600, 0, 0), Asked(unique))


def after_a_crash(bench: Bench) -> Engine:
    successor = Engine(bench.engine.state, bench.journal, bench.region, bench.kernel)
    successor.recover()
    return successor


def test_regression_an_orphan_in_use_before_the_crash_is_reaped_though_its_forget_died_with_the_daemon() -> (
    None
):
    """Whatever the last requests had changed was taken for an O_TMPFILE file whose answer is on its way: its
    memory stayed in use until another daemon died."""
    bench = Bench()
    named = bench.engine.make(cmd.Make(ROOT_INO, b"f", stat.S_IFREG | 0o600, 0, 0), Asked(8))
    trio.run(bench.engine.memory.resize, named, 2 * BLOCK, Asked(10))
    bench.engine.change(cmd.Unlink(ROOT_INO, b"f"), Asked(12))
    was_nameless = nameless(bench, 14)
    bench.engine.change(cmd.SetAttrs(was_nameless, mode=0o640), Asked(16))
    successor = after_a_crash(bench)
    trio.run(successor.sweep)
    assert not successor.state.orphans
    assert not bench.region.sizes


def test_a_nameless_file_that_nobody_picked_up_is_reaped_in_the_end() -> None:
    """Its caller was killed, and the kernel withdrew the request: neither FORGET nor resend will come."""
    bench = Bench()
    made = nameless(bench)
    now_s = 100.0
    successor = after_a_crash(bench)
    successor.orphans = Orphans(
        successor.ledger, bench.region, bench.kernel, successor.backings, successor.poison, lambda: now_s
    )
    successor.orphans.sweep()
    assert made in successor.state.orphans
    now_s += 60
    successor.orphans.sweep()
    assert made not in successor.state.inodes


def test_who_asks_again_for_a_nameless_file_that_was_reaped_gets_another() -> None:
    bench = Bench()
    made = nameless(bench)
    successor = after_a_crash(bench)
    forget(successor, made)
    again = successor.make(cmd.Make(ROOT_INO, b"", stat.S_IFREG | 0o600, 0, 0), Asked(8, resent=True))
    assert again != made
    assert again in successor.state.orphans


def test_regression_backing_ids_that_died_between_kernel_and_journal_are_given_back() -> None:
    bench = Bench()
    ino = bench.engine.make(cmd.Make(ROOT_INO, b"f", stat.S_IFREG | 0o600, 0, 0), Asked(8))
    kept = bench.engine.backings.ensure(ino)
    with open("/dev/null", "rb") as file:
        lost = bench.kernel.backing_open(file.fileno())
    trio.run(bench.engine.sweep)
    assert bench.kernel.open_ids == {kept}
    assert lost not in bench.kernel.open_ids
