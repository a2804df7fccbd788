"""The handover between two real processes: warm, go, and every way in which it can fail."""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from guestmemfs_fuse.core.errors import DaemonError
from guestmemfs_fuse.handover.successor import Handover, Successor, Word

DEADLINE_S = 30.0

BEGIN = """
import os, sys
from guestmemfs_fuse.handover.fdstore import received_fds
from guestmemfs_fuse.handover.successor import Handover
out = sys.argv[1]
fds = received_fds()
handover = Handover.from_received(fds)
"""
# Writes what it knows to a new name, then renames: the test never reads half of it.
SERVE = (
    BEGIN
    + """
handover.say_warm()
print("into the log", file=sys.stderr, flush=True)
if handover.await_go():
    with open(out + ".new", "w") as file:
        file.write(repr({name: [os.pread(fd, 9, 0) for fd in found] for name, found in fds.items()}))
    os.rename(out + ".new", out)
"""
)


def run(body: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(DEADLINE_S):
            await body()

    before = sorted(os.listdir("/proc/self/fd"))
    trio.run(main)
    assert sorted(os.listdir("/proc/self/fd")) == before


def command(code: str, *arguments: object) -> list[str]:
    return [sys.executable, "-c", code, *map(str, arguments)]


ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def no_such_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_warm_successor_takes_over_at_a_word_with_our_descriptors(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async def body() -> None:
        fd = os.memfd_create("content")
        os.write(fd, b"the guest")
        async with Successor.start(
            command(SERVE, tmp_path / "out"), {"fuse": [fd], "region-1": [fd, fd]}, ENV
        ) as s:
            await s.warm(DEADLINE_S)
            assert not (tmp_path / "out").exists()
            s.go(Word(clean=True, drained_ns=1))
        os.fstat(fd)
        os.close(fd)
        _pid, status = await trio.to_thread.run_sync(os.waitpid, s.pid, 0)
        assert os.waitstatus_to_exitcode(status) == 0

    run(body)
    assert (tmp_path / "out").read_text() == repr(
        {"fuse": [b"the guest"], "region-1": [b"the guest", b"the guest"]}
    )
    assert capfd.readouterr().err == "into the log\n"


def test_a_successor_that_is_not_let_go_ends_silently(tmp_path: Path) -> None:
    async def body() -> None:
        async with Successor.start(command(SERVE, tmp_path / "out"), {}, ENV) as s:
            await s.warm(DEADLINE_S)
        assert no_such_process(s.pid)

    run(body)
    assert not (tmp_path / "out").exists()


def test_a_successor_whose_predecessor_is_cancelled_ends(tmp_path: Path) -> None:
    async def body() -> None:
        with trio.CancelScope() as scope:
            async with Successor.start(command(SERVE, tmp_path / "out"), {}, ENV) as s:
                await s.warm(DEADLINE_S)
                scope.cancel()
                await trio.sleep_forever()
        assert no_such_process(s.pid)

    run(body)


@pytest.mark.parametrize(
    ("code", "match"),
    [
        (
            "import sys; print('no module', flush=True); sys.exit('ImportError: x')",
            r"exited with status 1: ImportError: x",
        ),
        ("import os; os.kill(os.getpid(), 9)", r"was killed by signal 9$"),
        ("1 / 0", r"exited with status 1: ZeroDivisionError: division by zero"),
        (BEGIN + "handover._line.sendall(b'?'); handover.await_go()", "hung up|exited with status 0"),
    ],
)
def test_a_successor_that_fails_to_get_warm_is_told_with_its_last_words(code: str, match: str) -> None:
    async def body() -> None:
        async with Successor.start(command(code, "out"), {}, ENV) as s:
            with pytest.raises(DaemonError, match=match):
                await s.warm(DEADLINE_S)
        assert no_such_process(s.pid)

    run(body)


def test_all_of_its_last_words_come_as_a_note() -> None:
    async def body() -> None:
        async with Successor.start(command("print('first', flush=True); 1 / 0"), {}, ENV) as s:
            with pytest.raises(DaemonError) as caught:
                await s.warm(DEADLINE_S)
        note = caught.value.__notes__[0]
        assert note.startswith("first\nTraceback")
        assert caught.value.hint == "the old one goes on serving"

    run(body)


def test_a_successor_that_hangs_is_ended() -> None:
    async def body() -> None:
        code = "import signal\nwhile True: signal.pause()"
        async with Successor.start(command(code), {}, ENV) as s:
            with pytest.raises(DaemonError, match=r"not ready to take over within 0\.05 s"):
                await s.warm(0.05)
        assert no_such_process(s.pid)

    run(body)


def test_a_command_that_cannot_be_executed_is_told() -> None:
    async def body() -> None:
        async with Successor.start(["/nowhere"], {}, ENV) as s:
            with pytest.raises(DaemonError, match="exited with status 127: cannot execute /nowhere"):
                await s.warm(DEADLINE_S)

    run(body)


def test_going_is_refused_when_the_successor_died_after_it_was_warm() -> None:
    async def body() -> None:
        code = BEGIN + "handover.say_warm(); os._exit(5)"
        async with Successor.start(command(code, "out"), {}, ENV) as s:
            await s.warm(DEADLINE_S)
            await trio.to_thread.run_sync(os.waitid, os.P_PID, s.pid, os.WEXITED | os.WNOWAIT)
            with pytest.raises(DaemonError, match="died before it took over"):
                s.go(Word(clean=True, drained_ns=1))

    run(body)


def test_an_ordinary_start_is_no_handover() -> None:
    fds = {"fuse": [7]}
    assert Handover.from_received(fds) is None
    assert fds == {"fuse": [7]}
    half = {"handover": [os.memfd_create("x")], "fuse": [7]}
    assert Handover.from_received(half) is None
    assert half == {"fuse": [7]}
