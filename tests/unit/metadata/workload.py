"""Transactions to store: every record type with any values (for codec), and real ones (for the store)."""

from __future__ import annotations

import random
import stat
from collections.abc import Iterator
from dataclasses import fields
from functools import cache
from uuid import UUID

from hypothesis import strategies as st

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core import evolve, image
from guestmemfs_fuse.core.decide import decide
from guestmemfs_fuse.core.errors import FsError
from guestmemfs_fuse.core.records import RECORD_TYPES, Record, Transaction
from guestmemfs_fuse.core.state import State, new_state
from guestmemfs_fuse.core.types import ROOT_INO, BackingId, BlockNumber, Extent, Ino, Unique

REGION = UUID("3d6f0a52-5b54-4b0e-9a3c-0123456789ab")
OTHER_REGION = UUID("00000000-5b54-4b0e-9a3c-0123456789ab")
BLOCK_BYTES = 2 << 20

_INTEGERS = st.integers(-(1 << 63), (1 << 64) - 1)
_EXTENTS = st.lists(
    st.builds(Extent, st.integers(0, 1 << 40).map(BlockNumber), st.integers(1, 1 << 40)), max_size=4
).map(tuple)
_VALUES = {
    "int": _INTEGERS,
    "Ino": st.integers(0, (1 << 64) - 1),
    "BackingId": _INTEGERS,
    "bool": st.booleans(),
    "bytes": st.binary(max_size=300),
    "int | None": st.none() | _INTEGERS,
    "tuple[Extent, ...]": _EXTENTS,
}


def _records_of(record: type[Record]) -> st.SearchStrategy[Record]:
    return st.builds(record, **{field.name: _VALUES[str(field.type)] for field in fields(record)})


any_record: st.SearchStrategy[Record] = st.one_of([_records_of(record) for record in RECORD_TYPES])
any_transaction = st.builds(
    Transaction,
    st.lists(any_record, max_size=5).map(tuple),
    st.integers(0, (1 << 63) - 1).map(Unique),
    st.integers(1, (1 << 63) - 1).map(Ino),
)


def fresh_state(*, extents: bool = False) -> State:
    """An empty instance of 64 blocks."""
    return new_state(region_bytes=64 * BLOCK_BYTES, block_bytes=BLOCK_BYTES, now_ns=1, extents=extents)


def _random_command(dice: random.Random, state: State) -> cmd.Command:
    inos = list(state.inodes)
    directories = [ino for ino in inos if state.inodes[ino].is_dir]
    parent, other, ino = dice.choice(directories), dice.choice(directories), dice.choice(inos)
    name, new_name = (b"%c" % dice.choice(b"abcdefgh") for _ in range(2))
    size_bytes = dice.randrange(4 * BLOCK_BYTES)
    kind = dice.choice((stat.S_IFREG, stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO))
    target = b"elsewhere" if kind == stat.S_IFLNK else b""
    extent = Extent(BlockNumber(dice.randrange(64)), 1)
    choices: list[cmd.Command] = [
        cmd.Make(parent, name, kind | 0o644, dice.choice((0, 1000)), 0, 0, target),
        cmd.Make(parent, b"", stat.S_IFREG | 0o600, 0, 0),
        cmd.Link(ino, parent, name),
        cmd.Unlink(parent, name),
        cmd.Rmdir(parent, name),
        cmd.Rename(parent, name, other, new_name, dice.choice((0, 1, 2))),
        cmd.SetAttrs(ino, mode=0o600, uid=dice.choice((None, 0, 1000)), mtime_ns=dice.randrange(1 << 62)),
        cmd.Resize(ino, size_bytes),
        cmd.Allocate(ino, 0, size_bytes + 1, keep_size=dice.random() < 0.5),
        cmd.Punch(ino, 0, BLOCK_BYTES),
        cmd.SetXattr(ino, b"user." + name, dice.randbytes(dice.randrange(40))),
        cmd.RemoveXattr(ino, b"user." + name),
        cmd.Reap(ino),
        cmd.Pin(ino, dice.random() < 0.3),
        cmd.Mark(ino, dice.choice((b"", b"", b"saved"))),
        cmd.StartDaemon(),
        cmd.StartSession(dice.randbytes(16), dice.randrange(100)),
        cmd.OpenBacking(ino, BackingId(dice.randrange(1, 100))),
        cmd.CloseBacking(ino),
        cmd.Quarantine((extent,)),
    ]
    return dice.choice(choices)


def transactions(seed: int, count: int, *, extents: bool = False) -> Iterator[Transaction]:
    """That many real transactions, each decided on the state the ones before it made."""
    dice, state = random.Random(seed), fresh_state(extents=extents)
    while count:
        command = _random_command(dice, state)
        try:
            records = decide(command, state, now_ns=dice.randrange(1 << 62))
        except FsError:
            continue
        if records:
            transaction = Transaction(records, Unique(dice.randrange(3)), ROOT_INO)
            evolve.apply(state, transaction)
            count -= 1
            yield transaction


@cache
def history(seed: int, count: int, extents: bool = False) -> tuple[tuple[Transaction, ...], tuple[Dump, ...]]:
    """Transactions, and what the state looks like after the first n of them, for every n."""
    state = fresh_state(extents=extents)
    done, dumps = [], [dump_of(state)]
    for transaction in transactions(seed, count, extents=extents):
        evolve.apply(state, transaction)
        done.append(transaction)
        dumps.append(dump_of(state))
    return tuple(done), tuple(dumps)


Dump = tuple[image.Item, ...]


def dump_of(state: State) -> Dump:
    """The whole state as a value that can be compared."""
    return tuple(image.dump(state))
