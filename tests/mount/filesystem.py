"""An instance to try the filesystem on: the real command line, with users who act in it (posix/tree.py).

What the tests of test_filesystem_*.py share. The test process itself never touches the mount.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from guestmemfs_fuse.linux import probe_fuse
from tests.cli import COMMAND, Guestmemfs, Instance
from tests.mount.posix.tree import Place, Tree
from tests.require import require

MIB: Final = 1 << 20
BLOCK: Final = 2 * MIB
READ_WRITE: Final = 3
SHARED: Final = 1
KEEP: Final = 1
PUNCH: Final = 3

SOON_S: Final = 60.0
"""Only what never comes true costs all of this: folding 64 MiB of metadata takes its time on a busy host."""


@dataclass(frozen=True, slots=True)
class Mounted:
    """A mounted instance and its users."""

    instance: Instance
    place: Place

    @contextmanager
    def tree(self, given: str = "") -> Iterator[Tree]:
        """A fresh directory in it, removed at the end."""
        tree = self.place.tree(given)
        try:
            yield tree
        finally:
            tree.remove()

    def path(self, tree: Tree, name: str) -> Path:
        """Where a file of a tree is, for the command line."""
        return self.instance.mountpoint / tree.name / name

    def run(self, *arguments: object) -> str:
        """A command of the command line; what it printed."""
        return self.instance.cli.run(*arguments).stdout

    def relay(self) -> dict[str, Any]:
        """The channel's counters (fuse/statistics.RelayStatistics)."""
        counters: dict[str, Any] = self.instance.status()["counters"]["relay"]
        return counters


@contextmanager
def mounted(name: str, size: str = "64M", *options: object) -> Iterator[Mounted]:
    """A mounted instance in a directory of its own; everything is gone at the end."""
    require(os.geteuid() == 0, "root")
    require(COMMAND.exists(), f"{COMMAND} (run scripts/setup)")
    require(probe_fuse.passthrough().ok, "FUSE passthrough")
    directory = Path(os.environ["GUESTMEMFS_TEST_SESSION"]) / name
    directory.mkdir()
    cli = Guestmemfs(directory)
    try:
        instance = cli.mount(name, *options, size=size)
        place = Place("mount", instance.mountpoint)
        try:
            yield Mounted(instance, place)
        finally:
            place.close()
    finally:
        cli.destroy_all()
        shutil.rmtree(directory, ignore_errors=True)


def soon(condition: Callable[[], object]) -> None:
    """Wait until it holds; fail after SOON_S seconds."""
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline, "did not come true"
        time.sleep(0.002)


def mapped(tree: Tree, name: str, size_bytes: int) -> int:
    """Map the first size_bytes of a file of the tree, shared, and close the descriptor."""
    fd = tree.opened(name)
    mapping = int(tree.mmap(fd, size_bytes, READ_WRITE, SHARED))
    tree.close(fd)
    return mapping
