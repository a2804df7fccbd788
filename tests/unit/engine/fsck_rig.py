"""A stopped instance in memory, whole or damaged, for tests of fsck."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from typing import Self
from uuid import UUID

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.decide import decide
from guestmemfs_fuse.core.errors import StaleInodeError
from guestmemfs_fuse.core.evolve import apply
from guestmemfs_fuse.core.records import Made, Transaction
from guestmemfs_fuse.core.state import Inode, State, new_state
from guestmemfs_fuse.core.types import ROOT_INO, Ino
from guestmemfs_fuse.engine import fsck_offline
from guestmemfs_fuse.engine.fsck import Result
from guestmemfs_fuse.metadata import journal, store
from guestmemfs_fuse.metadata.store import Store
from guestmemfs_fuse.region.base import BackingStat
from tests.unit.engine.fakes import BLOCK, MemoryRegion
from tests.unit.metadata.memory_files import MemoryFiles

REGION = UUID("3d6f0a52-5b54-4b0e-9a3c-0123456789ab")
BLOCKS = 64


class StrictRegion(MemoryRegion):
    """Says of a backing that is missing what the real kinds say; counts nothing for extents."""

    def stat(self, inode: Inode) -> BackingStat:
        if inode.ino not in self.sizes:
            raise StaleInodeError()
        return super().stat(inode)

    def plant(self, ino: int, size_bytes: int, allocated_bytes: int) -> None:
        """A backing, whoever it belongs to."""
        self.sizes[Ino(ino)], self.memory[Ino(ino)] = size_bytes, allocated_bytes


class Stopped:
    """Files and region of an instance that has /d/f (2 blocks), /g (1 block, linked twice) and /e/."""

    def __init__(self) -> None:
        self.files = MemoryFiles()
        self.region = StrictRegion(BLOCKS * BLOCK)
        self.state = new_state(region_bytes=BLOCKS * BLOCK, block_bytes=BLOCK, now_ns=1)
        self.store = Store.create(self.files, REGION, self.state)
        self.d = self.make(b"d", stat.S_IFDIR)
        self.f = self.make(b"f", parent=self.d)
        self.resize(self.f, 2 * BLOCK)
        self.g = self.make(b"g")
        self.resize(self.g, BLOCK)
        self.do(cmd.Link(self.g, self.d, b"g2"))
        self.e = self.make(b"e", stat.S_IFDIR)

    def do(self, command: cmd.Command) -> Transaction:
        transaction = Transaction(decide(command, self.state, 7))
        self.store.append(transaction)
        apply(self.state, transaction)
        return transaction

    def make(self, name: bytes, kind: int = stat.S_IFREG, parent: Ino = ROOT_INO) -> Ino:
        made = self.do(cmd.Make(parent, name, kind | 0o755, 0, 0)).records[0]
        assert isinstance(made, Made)
        if kind == stat.S_IFREG:
            self.region.create(made.ino)
        return made.ino

    def resize(self, ino: Ino, size_bytes: int) -> None:
        self.do(cmd.Resize(ino, size_bytes))
        self.region.plant(ino, size_bytes, size_bytes)

    def plant(self, state: State | None = None) -> None:
        """Store a state that no program of ours would have written."""
        for name in self.files.names():
            self.files.unlink(name)
        Store.create(self.files, REGION, state or self.state).close()

    def fsck(self, *, repair: bool = False, region: bool = True) -> Result:
        return fsck_offline.check(self.files, REGION, self.region if region else None, repair=repair)

    def stored(self) -> State:
        """What the next daemon would load."""
        return store.read_only_view(self.files, REGION).state

    def mended(self) -> State:
        """Repair, be sure that it worked and lasts, and return what the next daemon would load."""
        result = self.fsck(repair=True)
        assert result.findings
        assert result.unrepaired == ()
        assert self.fsck().clean, self.fsck().findings
        return self.stored()


class Grown(Stopped):
    """Several segments: /late (3 blocks) is in the second one, /last in the third."""

    def __init__(self) -> None:
        super().__init__()
        self.store.rotate()
        self.late = self.make(b"late")
        self.resize(self.late, 3 * BLOCK)
        self.store.rotate()
        self.make(b"last")

    def with_files(self, contents: Mapping[str, bytes]) -> Self:
        """Replace metadata files."""
        for name, content in contents.items():
            self.files.put(name, content)
        return self


def segments(there: Stopped) -> list[str]:
    """The names of the journal's segments, oldest first."""
    return [journal.segment_name(first) for first in journal.segments(there.files)]


def flip(files: MemoryFiles, name: str, at: int) -> None:
    """Damage one byte."""
    data = bytearray(files.read(name))
    data[at] ^= 0xFF
    files.put(name, bytes(data))


def lookup(state: State, *names: bytes) -> Ino | None:
    """Where a path leads."""
    ino: Ino | None = ROOT_INO
    for name in names:
        directory = state.inodes[ino].directory if ino is not None else None
        ino = directory.get(name) if directory is not None else None
    return ino
