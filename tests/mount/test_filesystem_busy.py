"""A long allocation: others are answered meanwhile, and whoever asked for it can change his mind.

The daemon is stopped (SIGSTOP) while the request is made, so that it is certain to be under way when the
signal comes: nothing here depends on how fast memory is given out.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from guestmemfs_fuse.linux import process
from tests.mount.filesystem import MIB, Mounted, mounted, soon

GIB = 1 << 30
REGION = 6 * GIB
BIG = 5 * GIB

# Opens the file, says "ready", waits for a word, makes the call, says how it ended.
CALLER = """
import ctypes, errno, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
libc.ftruncate.argtypes = [ctypes.c_int, ctypes.c_long]
signal.signal(signal.SIGUSR1, lambda *_: None)
signal.siginterrupt(signal.SIGUSR1, True)
fd, size = os.open(sys.argv[2], os.O_RDWR), int(sys.argv[3])
print("ready", flush=True)
sys.stdin.readline()
result = libc.fallocate(fd, 0, 0, size) if sys.argv[1] == "fallocate" else libc.ftruncate(fd, size)
print("ok" if result == 0 else errno.errorcode[ctypes.get_errno()], flush=True)
"""


class Caller:
    """A process that makes a long call when it is told to."""

    def __init__(self, how: str, path: Path, size_bytes: int) -> None:
        command = [sys.executable, "-c", CALLER, how, str(path), str(size_bytes)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._line() == "ready"

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def go(self) -> None:
        """Make the call now."""
        assert self.process.stdin is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()

    def answer(self) -> str:
        """How it ended: "ok" or an errno."""
        return self._line()

    def waits_in_fuse(self) -> bool:
        """Whether it sleeps in a request to the daemon (wchan of proc(5))."""
        return Path(f"/proc/{self.process.pid}/wchan").read_text() == "request_wait_answer"

    def kill(self) -> None:
        """SIGKILL; fails when it does not die of it."""
        self.process.kill()
        assert self.process.wait(timeout=20) == -signal.SIGKILL

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@contextmanager
def caller(how: str, path: Path, size_bytes: int) -> Iterator[Caller]:
    """A caller that has the file open; gone at the end."""
    made = Caller(how, path, size_bytes)
    try:
        yield made
    finally:
        made.end()


@pytest.fixture(scope="module")
def fs() -> Iterator[Mounted]:
    with mounted("busy", "6G") as made:
        yield made


@contextmanager
def stopped(fs: Mounted) -> Iterator[int]:
    """The daemon does nothing for a while. Yields its pid."""
    pid = fs.instance.daemon_pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGCONT)


def test_regression_a_signal_with_a_handler_does_not_end_a_truncate(fs: Mounted) -> None:
    """QEMU died of `ftruncate: Interrupted system call`: no other filesystem gives EINTR there."""
    with fs.tree(f"ram:{4 * MIB}") as t, caller("ftruncate", fs.path(t, "ram"), BIG) as patient:
        with stopped(fs):
            patient.go()
            soon(patient.waits_in_fuse)
            patient.process.send_signal(signal.SIGUSR1)
        assert patient.answer() == "ok"
        assert t.stat("ram").st_size == BIG
        t.truncate("ram", 0)


def test_a_signal_interrupts_fallocate_and_nothing_is_left_of_it(fs: Mounted) -> None:
    with fs.tree(f"ram:{4 * MIB}") as t, caller("fallocate", fs.path(t, "ram"), BIG) as impatient:
        before, room = t.snapshot(), t.statfs(".")["f_bfree"]
        with stopped(fs):
            impatient.go()
            soon(impatient.waits_in_fuse)
            impatient.process.send_signal(signal.SIGUSR1)
        assert impatient.answer() == "EINTR"
        assert t.statfs(".")["f_bfree"] == room
        assert t.snapshot() == before
        assert t.tries.truncate("ram", 8 * MIB) == "ok"
        assert fs.relay()["interrupted"] > 0


@pytest.mark.parametrize("how", ["fallocate", "ftruncate"])
def test_killing_the_caller_of_an_allocation_does_not_hang(fs: Mounted, how: str) -> None:
    with fs.tree(f"ram:{4 * MIB}") as t, caller(how, fs.path(t, "ram"), BIG) as impatient:
        impatient.go()
        impatient.kill()
        # Either it was through before the signal came, or nothing is left of it.
        soon(lambda: t.stat("ram").st_size in (4 * MIB, BIG))
        t.truncate("ram", 0)
        figures = t.statfs(".")
        assert figures["f_bfree"] * figures["f_bsize"] == REGION


def test_killing_a_caller_whose_daemon_is_stopped_does_not_hang(fs: Mounted) -> None:
    with fs.tree("ram") as t, caller("ftruncate", fs.path(t, "ram"), 8 * MIB) as impatient, stopped(fs):
        impatient.go()
        soon(impatient.waits_in_fuse)
        impatient.kill()


def _answers_during_an_allocation(fs: Mounted) -> tuple[list[int], int]:
    """How long others waited for an answer while ftruncate gave BIG bytes, and how long that took (ns)."""
    with fs.tree("ram other:1") as t, caller("ftruncate", fs.path(t, "ram"), BIG) as patient:
        began = time.monotonic_ns()
        patient.go()
        waits = []
        while t.stat("ram").st_size < BIG:
            asked = time.monotonic_ns()
            assert asked - began < 60e9, f"{BIG} bytes are not given out: has the host that much?"
            t.chmod("other", 0o600)
            t.listxattr("other")
            waits.append(time.monotonic_ns() - asked)
        took = time.monotonic_ns() - began
        assert patient.answer() == "ok"
        assert t.stat("ram").st_blocks * 512 == BIG
    return waits, took


def test_others_are_answered_while_memory_is_given_out(fs: Mounted) -> None:
    # Memory that is at hand is given out in some 10 ms, as little as a busy host keeps any process waiting:
    # one allocation of many has to show it. A daemon that serves one after the other shows it in none, as its
    # second answer comes after the end.
    seen = []
    for _ in range(100):
        waits, took = _answers_during_an_allocation(fs)
        # Not a figure, an order: nobody waited for the whole of the allocation.
        if len(waits) >= 3 and max(waits) < took / 2:
            return
        seen.append(f"{len(waits)} in {took / 1e6:.0f} ms")
    pytest.fail(f"answers during an allocation: {', '.join(seen)}")


def test_two_allocations_that_fit_together_both_succeed(fs: Mounted) -> None:
    with (
        fs.tree("a b") as t,
        caller("ftruncate", fs.path(t, "a"), 3 * GIB) as first,
        caller("fallocate", fs.path(t, "b"), 3 * GIB) as second,
    ):
        first.go()
        second.go()
        assert (first.answer(), second.answer()) == ("ok", "ok")
        assert t.statfs(".")["f_bfree"] == 0


def test_two_allocations_that_do_not_fit_together_are_one_refusal(fs: Mounted) -> None:
    with (
        fs.tree("a b") as t,
        caller("ftruncate", fs.path(t, "a"), 4 * GIB) as first,
        caller("ftruncate", fs.path(t, "b"), 4 * GIB) as second,
    ):
        first.go()
        second.go()
        assert sorted((first.answer(), second.answer())) == ["ENOSPC", "ok"]
        figures = t.statfs(".")
        assert figures["f_bfree"] * figures["f_bsize"] == 2 * GIB


def test_the_daemon_outlives_impatient_callers(fs: Mounted) -> None:
    pid = fs.instance.daemon_pid
    with fs.tree("ram") as t:
        for _ in range(10):
            with caller("ftruncate", fs.path(t, "ram"), BIG) as impatient:
                impatient.go()
                impatient.kill()
    assert process.is_alive(pid) and fs.instance.daemon_pid == pid
