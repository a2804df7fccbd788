"""Attributes as pyfuse3 answers them."""

from __future__ import annotations

import stat

import pytest

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.errors import StaleInodeError
from guestmemfs_fuse.core.state import Inode
from guestmemfs_fuse.core.types import ROOT_INO
from guestmemfs_fuse.fuse.attributes import attributes_of, listed_attributes_of
from guestmemfs_fuse.region.base import BackingStat
from tests.unit.engine.fakes import Bench


def test_regression_a_file_whose_memory_is_gone_does_not_hide_the_others_of_its_directory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """readdir failed with ESTALE for all of them."""
    bench = Bench()
    inode = bench.engine.state.inodes[bench.engine.make(cmd.Make(ROOT_INO, b"f", stat.S_IFREG | 0o640, 7, 8))]

    def gone(inode: Inode) -> BackingStat:
        raise StaleInodeError()

    monkeypatch.setattr(bench.region, "stat", gone)
    with pytest.raises(StaleInodeError):
        attributes_of(inode, bench.region)
    entry = listed_attributes_of(inode, bench.region)
    assert (entry.st_ino, entry.st_mode, entry.st_uid) == (inode.ino, stat.S_IFREG | 0o640, 7)
    assert (entry.entry_timeout, entry.attr_timeout) == (0, 0)
