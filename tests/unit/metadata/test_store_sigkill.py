"""A real process on real files, killed with SIGKILL while it appends and folds."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path
from typing import NoReturn

import pytest

from guestmemfs_fuse.metadata import store
from guestmemfs_fuse.metadata.files import DirectoryFiles
from guestmemfs_fuse.metadata.store import Durability, Store
from tests.unit.metadata.workload import REGION, dump_of, fresh_state, history

DONE, DUMPS = history(53, 400)
ROUNDS = 40


def append_until_killed(directory: Path, acknowledge_fd: int, durability: Durability) -> NoReturn:
    """Go on where the last process was killed; one byte for each acknowledged transaction."""
    opened = Store.open(DirectoryFiles(directory), REGION, durability=durability).store
    for number in range(opened.sequence, len(DONE)):
        opened.append(DONE[number])
        os.write(acknowledge_fd, b".")
        if opened.compaction_due:
            opened.rotate()
            opened.compact_sealed()
    os._exit(0)


@pytest.mark.parametrize("durability", [Durability.KILL, Durability.POWER])
def test_what_a_killed_process_acknowledged_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durability: Durability
) -> None:
    monkeypatch.setattr(store, "COMPACT_MIN_BYTES", 700)
    files, dice = DirectoryFiles(tmp_path), random.Random(3)
    Store.create(files, REGION, fresh_state()).close()
    acknowledged = 0
    for _ in range(ROUNDS):
        acknowledged += _acknowledged_by_one(tmp_path, durability, dice.randrange(1, 15))
        view = store.read_only_view(files, REGION)
        assert acknowledged <= view.sequence <= acknowledged + 1
        assert dump_of(view.state) == DUMPS[view.sequence]
        acknowledged = view.sequence
        if acknowledged == len(DONE):
            break
    assert acknowledged > 100
    files.close()


def _acknowledged_by_one(directory: Path, durability: Durability, enough: int) -> int:
    """Start a process, kill it when it has acknowledged `enough`; how many it did in all."""
    read_fd, write_fd = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read_fd)
        try:
            append_until_killed(directory, write_fd, durability)
        finally:
            os._exit(1)
    os.close(write_fd)
    got = 0
    with open(read_fd, "rb", buffering=0) as acknowledgements:
        while got < enough and (more := acknowledgements.read(enough - got)):
            got += len(more)
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        got += len(acknowledgements.readall())
    assert os.waitstatus_to_exitcode(status) in (-signal.SIGKILL, 0)
    return got
