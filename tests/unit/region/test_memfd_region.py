"""The memfd kind's table of descriptors, on a directory that stands for its tmpfs."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from guestmemfs_fuse.core.errors import DaemonError
from guestmemfs_fuse.core.state import Inode
from guestmemfs_fuse.core.types import Ino
from guestmemfs_fuse.region.memfd import MOUNT_NAME, MemfdRegion

BLOCK = 4096


class Store:
    """Takes what it is given."""

    present = True

    def store(self, name: str, *fds: int) -> None:
        pass

    def remove(self, name: str) -> None:
        pass


@pytest.fixture
def region(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MemfdRegion]:
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: None)
    mount_fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    made = MemfdRegion({MOUNT_NAME: [mount_fd]}, Store(), str(tmp_path), 1 << 30, BLOCK)
    yield made
    made.close()


def test_regression_a_descriptor_in_use_by_a_thread_stays_its_file_while_that_is_discarded(
    region: MemfdRegion,
) -> None:
    """A file made at that moment got its number, and was allocated, or measured, in its place."""
    first, second = Inode(Ino(2), 0o100600, 0, 0, 0, 0, 0, 0), Inode(Ino(3), 0o100600, 0, 0, 0, 0, 0, 0)
    region.create(first.ino)
    with region._opened(first.ino) as fd:
        region.discard(first)
        region.create(second.ino)
        os.ftruncate(fd, BLOCK)
    assert region.stat(second).size_bytes == 0
    assert list(region.inventory()) == [second.ino]


def test_regression_a_file_can_be_discarded_when_the_store_was_killed(
    region: MemfdRegion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It raised what ended the daemon, which had the only copy of all other memory."""

    def refuse(store: Store, name: str) -> None:
        raise DaemonError("the fd store cannot be reached: Connection refused")

    gone = Inode(Ino(2), 0o100600, 0, 0, 0, 0, 0, 0)
    region.create(gone.ino)
    region.create(Ino(3))
    monkeypatch.setattr(Store, "remove", refuse)
    region.discard(gone)
    assert list(region.inventory()) == [3]
