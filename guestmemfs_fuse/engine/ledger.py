"""Decide, journal, evolve: the one way state changes.

`Ledger.commit` is synchronous on purpose. The event loop is the mutation lock: between reading the
state and changing it nothing else can run, because nothing awaits. What must wait (allocation, fsync)
happens before or behind a commit, never inside.

Invariants: a record is journaled before it is applied; when the journal refuses, the state is as it was;
a request the kernel sends again after a crash (it was journaled, not answered) is never done twice.

Called by the other modules of the engine, and by control through them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Protocol

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.decide import decide
from guestmemfs_fuse.core.evolve import apply
from guestmemfs_fuse.core.records import Made, Record, Transaction
from guestmemfs_fuse.core.state import State
from guestmemfs_fuse.core.types import NO_REQUEST, ROOT_INO, Ino, Unique


class Journal(Protocol):
    """What the ledger needs of metadata/store.Store."""

    def append(self, transaction: Transaction, /) -> int:
        """Make a transaction durable. Raises FsError subclasses and changes nothing when it cannot."""


class Origin(Protocol):
    """The FUSE request behind a change."""

    @property
    def unique(self) -> int: ...

    @property
    def resent(self) -> bool: ...

    @property
    def pid(self) -> int:
        """The calling thread, 0 when it cannot be named."""


class Ledger:
    """The state of an instance and the only door to changing it."""

    def __init__(self, state: State, journal: Journal, clock: Callable[[], int] = time.time_ns) -> None:
        self.state = state
        self._journal = journal
        self._clock = clock
        self.committed = 0
        self.on_commit: Callable[[], None] = lambda: None

    def already_done(self, origin: Origin | None) -> Ino | None:
        """The inode a resent request made or changed before the last daemon died, or None."""
        if origin is None or not origin.resent:
            return None
        return self.state.recent.get(Unique(origin.unique))

    def commit(self, command: cmd.Command, origin: Origin | None = None) -> Ino:
        """Carry `command` out, durably, and return the inode it made or changed.

        Raises FsError: from decide (refused) or from the journal (could not be written); then nothing
        has changed.
        """
        records = decide(command, self.state, self._clock())
        made = next((record.ino for record in records if isinstance(record, Made)), None)
        ino = made if made is not None else getattr(command, "ino", ROOT_INO)
        if records:
            unique = Unique(origin.unique) if origin is not None else NO_REQUEST
            self._write(Transaction(records, unique, ino))
        return Ino(ino)

    def commit_all(self, commands: Mapping[Ino, cmd.Command]) -> None:
        """Carry out commands, each about the inode it stands under, all or none, as one transaction of ours.

        Each is decided on the state before all of them, so there may be one for an inode only, about nothing
        but that inode: a record that no longer fits would end us, and every daemon that reads the journal.
        Raises FsError as `commit`; then nothing has changed.
        """
        now_ns = self._clock()
        decided = (decide(command, self.state, now_ns) for command in commands.values())
        records = tuple(record for each in decided for record in each)
        if records:
            self._write(Transaction(records))

    def repair(self, records: tuple[Record, ...]) -> None:
        """Journal and apply records that no command asks for. Only for fsck, which found them due.

        Raises FsError when they cannot be written; then nothing has changed.
        """
        self._write(Transaction(records))

    def _write(self, transaction: Transaction) -> None:
        self._journal.append(transaction)
        apply(self.state, transaction)
        self.committed += 1
        self.on_commit()

    def check(self, command: cmd.Command) -> None:
        """Raise what `commit` would raise now, without doing anything."""
        decide(command, self.state, self._clock())
