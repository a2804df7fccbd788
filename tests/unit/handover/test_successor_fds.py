"""Descriptors that change until the last moment are handed over at the last moment, however many."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import trio

from guestmemfs_fuse.core.errors import DaemonError
from guestmemfs_fuse.handover.successor import Successor, Word

CODE = """
import os, sys
from guestmemfs_fuse.handover.fdstore import received_fds
from guestmemfs_fuse.handover.successor import Handover
handover = Handover.from_received(received_fds())
handover.say_warm()
if sys.argv[2] == "die":
    os._exit(3)
if handover.await_go():
    found = {name: [os.pread(fd, 9, 0) for fd in fds] for name, fds in handover.given.items()}
    assert not any(os.get_inheritable(fd) for fds in handover.given.values() for fd in fds)
    with open(sys.argv[1], "w") as file:
        file.write(repr(found))
"""
ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}


def memfd(text: bytes) -> int:
    fd = os.memfd_create("content")
    os.write(fd, text)
    return fd


@pytest.mark.parametrize("count", [0, 1, 249, 250, 251, 700])
def test_all_of_them_arrive_with_their_names(tmp_path: Path, count: int) -> None:
    async def body() -> None:
        fds = {f"region-ino-{number:x}": [memfd(b"%d" % number)] for number in range(count)}
        async with Successor.start(
            [sys.executable, "-c", CODE, str(tmp_path / "out"), "live"], {}, ENV
        ) as new:
            await new.warm(30)
            await new.give(fds)
            new.go(Word(clean=True, drained_ns=1))
        for (fd,) in fds.values():
            os.close(fd)
        _, status = await trio.to_thread.run_sync(os.waitpid, new.pid, 0)
        assert status == 0

    trio.run(body)
    expected = {f"region-ino-{number:x}": [b"%d" % number] for number in range(count)}
    assert eval((tmp_path / "out").read_text()) == expected


def test_a_successor_that_died_is_noticed_before_anything_is_given_up(tmp_path: Path) -> None:
    async def body() -> None:
        fd = memfd(b"x")
        async with Successor.start(
            [sys.executable, "-c", CODE, str(tmp_path / "out"), "die"], {}, ENV
        ) as new:
            await new.warm(30)
            with pytest.raises(DaemonError, match="died before it took over"):
                await new.give({"region-1": [fd]})
        os.close(fd)

    trio.run(body)
