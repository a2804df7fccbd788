"""What the metadata costs: the figures of docs/format.md. Run by hand, on a tmpfs:

python -m tests.unit.metadata.measure DIRECTORY [FILES]
"""

from __future__ import annotations

import gc
import os
import stat
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core import evolve
from guestmemfs_fuse.core.decide import decide
from guestmemfs_fuse.core.records import Transaction
from guestmemfs_fuse.core.state import State, new_state
from guestmemfs_fuse.core.types import ROOT_INO, Ino
from guestmemfs_fuse.metadata.files import DirectoryFiles
from guestmemfs_fuse.metadata.store import Store
from tests.unit.metadata.workload import BLOCK_BYTES, REGION

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def resident_bytes() -> int:
    """Memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * PAGE_BYTES


def say(what: str, figure: float, unit: str) -> None:
    """One line of the report."""
    print(f"{what:40} {figure:10.2f} {unit}")


@contextmanager
def timed(what: str) -> Iterator[None]:
    """Say how much processor time it took: on a machine that does other things, too, that repeats."""
    began = time.process_time()
    yield
    say(what, (time.process_time() - began) * 1000, "ms")


def fill(store: Store, state: State, files: int, extents: bool) -> None:
    """Make and size that many files, as a live instance would."""

    def commit(command: cmd.Command) -> None:
        transaction = Transaction(decide(command, state, time.time_ns()))
        store.append(transaction)
        evolve.apply(state, transaction)

    for number in range(files):
        commit(cmd.Make(ROOT_INO, b"guest-%06d" % number, stat.S_IFREG | 0o600, 0, 0))
        commit(cmd.Resize(Ino(number + 2), BLOCK_BYTES))


def measure(directory: Path, count: int, *, extents: bool) -> None:
    """All figures for one instance of `count` files."""
    files = DirectoryFiles(directory)
    state = new_state(
        region_bytes=(count + 1) * BLOCK_BYTES, block_bytes=BLOCK_BYTES, now_ns=1, extents=extents
    )
    store = Store.create(files, REGION, state)
    fill(store, state, count, extents)
    figures = store.statistics()
    say("append", figures.append_ns_sum / figures.appends / 1000, "us")
    say("journal per change", figures.journal_bytes / figures.appends, "bytes")
    del state
    _in_child(lambda: _load(files, "replay all of it"))
    with timed("rotate"):
        store.rotate()
    with timed("fold (in this process)"):
        store.compact_sealed()
    say("snapshot per file", store.statistics().snapshot_bytes / count, "bytes")
    store.close()
    _in_child(lambda: _load(files, "load the snapshot"))
    files.close()


def _load(files: DirectoryFiles, what: str) -> None:
    gc.collect()
    before = resident_bytes()
    with timed(what):
        opened = Store.open(files, REGION)
    say("memory of the state", (resident_bytes() - before) / 2**20, "MiB")
    with timed("a full garbage collection of it"):
        gc.collect()
    opened.store.close()


def _in_child(call: Callable[[], None]) -> None:
    sys.stdout.flush()
    pid = os.fork()
    if pid == 0:
        call()
        sys.stdout.flush()
        os._exit(0)
    os.waitpid(pid, 0)


def main(arguments: list[str]) -> None:
    """See the module."""
    count = int(arguments[1]) if len(arguments) > 1 else 100_000
    for extents in (False, True):
        print(f"{count} files, {'extents of one region' if extents else 'a backing file each'}")
        with tempfile.TemporaryDirectory(dir=arguments[0]) as directory:
            measure(Path(directory), count, extents=extents)


if __name__ == "__main__":
    main(sys.argv[1:])
