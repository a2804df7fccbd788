"""The two filesystems every check runs on: a mount of ours, and a tmpfs of the same kernel."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from guestmemfs_fuse.linux import mount
from tests.cli import COMMAND, Guestmemfs
from tests.mount.posix.table import Places
from tests.mount.posix.tree import Place
from tests.require import require


@pytest.fixture(scope="session")
def places() -> Iterator[Places]:
    """One instance and one tmpfs for the whole suite; each check has directories of its own in them."""
    require(os.geteuid() == 0, "root")
    require(Path("/dev/fuse").exists(), "/dev/fuse")
    require(COMMAND.exists(), f"{COMMAND} (run scripts/setup)")
    directory = Path(os.environ["GUESTMEMFS_TEST_SESSION"]) / "posix"
    tmpfs_path = directory / "control"
    tmpfs_path.mkdir(parents=True)
    cli = Guestmemfs(directory)
    try:
        instance = cli.mount("posix", size="256M")
        flags = mount.MS_NOSUID | mount.MS_NODEV | mount.MS_NOEXEC
        mount.mount("control", str(tmpfs_path), "tmpfs", flags, "size=256M,mode=755,huge=never")
        ours, control = Place("mount", instance.mountpoint), Place("control", tmpfs_path)
        try:
            yield Places(ours, control)
        finally:
            ours.close()
            control.close()
    finally:
        cli.destroy_all()
        mount.umount(str(tmpfs_path), mount.MNT_DETACH)
        shutil.rmtree(directory, ignore_errors=True)
