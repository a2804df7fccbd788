"""A small instance to ask things of: the tests' shorthand for decide + evolve."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core import evolve
from guestmemfs_fuse.core.check import problems
from guestmemfs_fuse.core.decide import decide
from guestmemfs_fuse.core.records import Made, Record, Transaction
from guestmemfs_fuse.core.state import Inode, State, new_state
from guestmemfs_fuse.core.types import ROOT_INO, Ino, UserLimits

BLOCK_BYTES = 2 << 20
BLOCKS = 16
USER = 1000


def empty_state(*, extents: bool = False, limits: UserLimits | None = None) -> State:
    """An instance with nothing but its root."""
    return new_state(
        region_bytes=BLOCKS * BLOCK_BYTES, block_bytes=BLOCK_BYTES, now_ns=1, extents=extents, limits=limits
    )


@dataclass
class World:
    """A State and the clock; `do` carries a command out and checks the invariants."""

    state: State = field(default_factory=empty_state)
    now_ns: int = 100

    def decide(self, command: cmd.Command) -> tuple[Record, ...]:
        """What the command would change, or its refusal."""
        return decide(command, self.state, self.now_ns)

    def do(self, command: cmd.Command) -> tuple[Record, ...]:
        """Carry the command out."""
        self.now_ns += 1
        records = self.decide(command)
        evolve.apply(self.state, Transaction(records))
        assert list(problems(self.state)) == []
        return records

    def make(self, name: bytes, parent: int = ROOT_INO, kind: int = stat.S_IFREG, uid: int = 0) -> Ino:
        """Make a file of any type and return its number; no name makes an orphan."""
        target = b"somewhere" if kind == stat.S_IFLNK else b""
        records = self.do(cmd.Make(Ino(parent), name, kind | 0o755, uid, uid, target=target))
        made = records[0]
        assert isinstance(made, Made)
        return made.ino

    def mkdir(self, name: bytes, parent: int = ROOT_INO, uid: int = 0) -> Ino:
        """Make a directory."""
        return self.make(name, parent, stat.S_IFDIR, uid)

    def __getitem__(self, ino: int) -> Inode:
        return self.state.inodes[Ino(ino)]
