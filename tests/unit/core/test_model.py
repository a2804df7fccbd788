"""Core against the naive filesystem: any sequence of calls, with restarts in between.

After every step the refusal or the whole tree is compared, the invariants of core/check are checked, and
deciding must not have changed anything. A restart replaces the state by one that was loaded from an image,
or replayed from the first transaction through the codec; both must be the same state.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core import evolve, image
from guestmemfs_fuse.core.check import problems
from guestmemfs_fuse.core.decide import decide
from guestmemfs_fuse.core.errors import FsError
from guestmemfs_fuse.core.records import Transaction
from guestmemfs_fuse.core.state import Inode, State, new_state
from guestmemfs_fuse.core.types import BackingId, BlockNumber, Extent, Ino, Unique, UserLimits
from guestmemfs_fuse.metadata import codec
from tests.unit.core.naive import BLOCK_BYTES, MAX_FILES, MAX_XATTR_BYTES, Naive, Node, Refused

BLOCKS = 12
EXAMPLES = int(os.environ.get("GUESTMEMFS_MODEL_EXAMPLES", "40"))
"""How many runs of 50 steps; `GUESTMEMFS_MODEL_EXAMPLES=2000` for a night."""

pick = st.integers(0, 1 << 30)
name_of_file = st.sampled_from([b"a", b"b", b"c", b"\xff\xfe"])
name_of_xattr = st.sampled_from([b"user.a", b"user.b"])
any_name = st.one_of(name_of_file, st.just(b"n" * 255), st.just(b"n" * 256))
sizes = st.integers(0, 5 * BLOCK_BYTES) | st.sampled_from([0, BLOCK_BYTES, 2 * BLOCK_BYTES])
uids = st.sampled_from([0, 1000, 1001])
kinds = st.sampled_from([stat.S_IFREG, stat.S_IFREG, stat.S_IFDIR, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFIFO])


def starting_state(*, extents: bool) -> State:
    return new_state(
        region_bytes=BLOCKS * BLOCK_BYTES,
        block_bytes=BLOCK_BYTES,
        now_ns=0,
        extents=extents,
        limits=UserLimits(MAX_FILES, MAX_XATTR_BYTES),
    )


class AgainstNaive(RuleBasedStateMachine):
    """One instance and its model. `history` is all transactions, as the journal would hold them."""

    extents = False

    def __init__(self) -> None:
        super().__init__()
        self.state = starting_state(extents=self.extents)
        self.naive = Naive(BLOCKS if self.extents else None)
        self.history: list[bytes] = []
        self.now = 0

    # -- doing a thing to both -------------------------------------------------------------------------

    def both(self, command: cmd.Command, model: Callable[[], object], *, thaws: bool = False) -> None:
        """Carry `command` out and `model` on the naive one; the same must come of it."""
        before = list(image.dump(self.state))
        expected: str | None = None
        if self.naive.frozen and not thaws:
            expected = "BusyFsError"
        else:
            try:
                model()
            except Refused as refused:
                expected = str(refused)
        try:
            records = decide(command, self.state, self.now)
        except FsError as error:
            assert type(error).__name__ == expected, command
            assert list(image.dump(self.state)) == before
            return
        assert expected is None, command
        assert list(image.dump(self.state)) == before
        if records:
            transaction = Transaction(records, Unique(self.now % 7))
            self.history.append(codec.encode(transaction))
            evolve.apply(self.state, transaction)

    @property
    def later(self) -> int:
        self.now += 1
        return self.now

    def some(self, picked: int) -> Ino:
        """Any inode; now and then one that does not exist."""
        numbers = [*sorted(self.naive.all()), 99]
        return Ino(numbers[picked % len(numbers)])

    def some_directory(self, picked: int) -> Ino:
        """Mostly a directory."""
        everything = self.naive.all()
        numbers = [number for number, node in sorted(everything.items()) if node.entries is not None] * 3
        numbers += sorted(everything)
        return Ino(numbers[picked % len(numbers)])

    def room(self) -> int | None:
        owned = {
            block
            for inode in self.state.inodes.values()
            for extent in inode.extents
            for block in range(extent.start, extent.end)
        }
        return self.naive.room_blocks(len(self.naive.bad_blocks & owned))

    # -- names -----------------------------------------------------------------------------------------

    @initialize()
    def furnish(self) -> None:
        """A few directories, so that the interesting things begin at once."""
        for parent, name, kind in ((1, b"a", stat.S_IFDIR), (2, b"b", stat.S_IFDIR), (1, b"b", stat.S_IFREG)):
            self.make(picked=0, name=name, kind=kind, bits=0o755, uid=0, parent=Ino(parent))

    @rule(picked=pick, name=any_name, kind=kinds, bits=st.sampled_from([0o644, 0o2755, 0o1777]), uid=uids)
    def make(
        self, picked: int, name: bytes, kind: int, bits: int, uid: int, parent: Ino | None = None
    ) -> None:
        parent = parent if parent is not None else self.some_directory(picked)
        target, now = b"over there" if kind == stat.S_IFLNK else b"", self.later
        self.both(
            cmd.Make(parent, name, kind | bits, uid, uid, 0, target),
            lambda: self.naive.make(parent, name, kind | bits, uid, uid, target, now),
        )

    @rule(picked=pick, uid=uids)
    def make_nameless(self, picked: int, uid: int) -> None:
        parent, now, mode = self.some_directory(picked), self.later, stat.S_IFREG | 0o600

        self.both(
            cmd.Make(parent, b"", mode, uid, uid),
            lambda: self.naive.make(parent, b"", mode, uid, uid, b"", now),
        )

    @rule(picked=pick, to=pick, name=any_name)
    def link(self, picked: int, to: int, name: bytes) -> None:
        ino, parent, now = self.some(picked), self.some_directory(to), self.later
        self.both(cmd.Link(ino, parent, name), lambda: self.naive.link(ino, parent, name, now))

    @rule(picked=pick, name=any_name)
    def unlink(self, picked: int, name: bytes) -> None:
        parent, now = self.some_directory(picked), self.later
        self.both(cmd.Unlink(parent, name), lambda: self.naive.unlink(parent, name, now))

    @rule(picked=pick, name=any_name)
    def rmdir(self, picked: int, name: bytes) -> None:
        parent, now = self.some_directory(picked), self.later
        self.both(cmd.Rmdir(parent, name), lambda: self.naive.rmdir(parent, name, now))

    @rule(picked=pick, name=name_of_file, to=pick, new=name_of_file, flags=st.sampled_from([0, 0, 1, 2, 2]))
    def rename(self, picked: int, name: bytes, to: int, new: bytes, flags: int) -> None:
        parent, new_parent, now = self.some_directory(picked), self.some_directory(to), self.later
        self.both(
            cmd.Rename(parent, name, new_parent, new, flags),
            lambda: self.naive.rename(parent, name, new_parent, new, flags, now),
        )

    # -- attributes ------------------------------------------------------------------------------------

    @rule(
        picked=pick,
        mode=st.none() | st.integers(0, 0o7777),
        uid=st.none() | uids,
        mtime=st.none() | st.integers(-(1 << 62), 1 << 62),
    )
    def set_attrs(self, picked: int, mode: int | None, uid: int | None, mtime: int | None) -> None:
        ino, now = self.some(picked), self.later
        self.both(
            cmd.SetAttrs(ino, mode=mode, uid=uid, mtime_ns=mtime),
            lambda: self.naive.set_attrs(ino, mode, uid, mtime, now),
        )

    @rule(picked=pick, name=name_of_xattr, value=st.binary(max_size=60), flags=st.integers(0, 2))
    def set_xattr(self, picked: int, name: bytes, value: bytes, flags: int) -> None:
        ino, now = self.some(picked), self.later
        self.both(
            cmd.SetXattr(ino, name, value, flags), lambda: self.naive.set_xattr(ino, name, value, flags, now)
        )

    @rule(picked=pick, name=name_of_xattr)
    def remove_xattr(self, picked: int, name: bytes) -> None:
        ino, now = self.some(picked), self.later
        self.both(cmd.RemoveXattr(ino, name), lambda: self.naive.remove_xattr(ino, name, now))

    # -- memory ----------------------------------------------------------------------------------------

    @rule(picked=pick, size=sizes, force=st.booleans())
    def resize(self, picked: int, size: int, force: bool) -> None:
        ino, room, now = self.some(picked), self.room(), self.later
        self.both(cmd.Resize(ino, size, force), lambda: self.naive.resize(ino, size, force, room, now))

    @rule(picked=pick, offset=sizes, length=sizes, keep=st.booleans())
    def allocate(self, picked: int, offset: int, length: int, keep: bool) -> None:
        ino, room, now = self.some(picked), self.room(), self.later
        end = offset + length + 1
        self.both(
            cmd.Allocate(ino, offset, length + 1, keep),
            lambda: self.naive.allocate(ino, end, keep, room, now),
        )

    @rule(picked=pick)
    def punch(self, picked: int) -> None:
        ino, now = self.some(picked), self.later
        self.both(cmd.Punch(ino, 0, 10), lambda: self.naive.punch(ino, now))

    @rule(picked=pick)
    def reap(self, picked: int) -> None:
        ino = Ino(next(iter(self.naive.nameless), 0)) if picked % 2 else self.some(picked)
        self.both(cmd.Reap(ino or Ino(1)), lambda: self.naive.reap(ino or 1))

    @rule(block=st.integers(0, BLOCKS - 1), count=st.integers(1, 3))
    def quarantine(self, block: int, count: int) -> None:
        if len(self.naive.bad_blocks) > 3 or block + count > BLOCKS:
            return
        extent = Extent(BlockNumber(block), count)
        bad = range(block, block + count)
        self.both(cmd.Quarantine((extent,)), lambda: self.naive.bad_blocks.update(bad), thaws=True)

    # -- pins, marks, freeze ---------------------------------------------------------------------------

    @rule(picked=pick, pinned=st.booleans())
    def pin(self, picked: int, pinned: bool) -> None:
        ino = self.some(picked)
        self.both(cmd.Pin(ino, pinned), lambda: setattr(self.naive.file(ino), "pinned", pinned))

    @rule(picked=pick, mark=st.sampled_from([b"", b"", b"vm"]))
    def mark(self, picked: int, mark: bytes) -> None:
        ino = self.some(picked)
        self.both(cmd.Mark(ino, mark), lambda: setattr(self.naive.file(ino), "mark", mark))

    @rule(frozen=st.sampled_from([True, False, False, False]))
    def freeze(self, frozen: bool) -> None:
        self.both(cmd.Freeze(frozen), lambda: setattr(self.naive, "frozen", frozen), thaws=True)

    @rule(picked=pick, number=st.integers(1, 9))
    def open_backing(self, picked: int, number: int) -> None:
        ino = self.some(picked)
        self.both(
            cmd.OpenBacking(ino, BackingId(number)),
            lambda: setattr(self.naive.node(ino), "backing", number),
            thaws=True,
        )

    @rule(picked=pick)
    def close_backing(self, picked: int) -> None:
        ino = self.some(picked)
        self.both(cmd.CloseBacking(ino), lambda: setattr(self.naive.node(ino), "backing", None), thaws=True)

    # -- daemons come and go ---------------------------------------------------------------------------

    @rule(device=st.integers(1, 4))
    def new_session(self, device: int) -> None:
        def model() -> None:
            for node in self.naive.all().values():
                node.backing = None

        self.both(cmd.StartDaemon(), lambda: None, thaws=True)
        self.both(cmd.StartSession(b"init", device), model, thaws=True)
        assert self.state.recent == {} or len(self.state.recent) == 1
        assert device in self.state.devices

    @rule()
    def load_an_image(self) -> None:
        self.continue_with(image.load(image.dump(self.state)))

    @rule()
    def replay_everything(self) -> None:
        self.continue_with(self.replayed())

    def replayed(self) -> State:
        state = starting_state(extents=self.extents)
        for payload in self.history:
            evolve.apply(state, codec.decode(payload))
        return state

    def continue_with(self, state: State) -> None:
        assert list(image.dump(state)) == list(image.dump(self.state))
        assert state.orphans == self.state.orphans
        assert _used(state) == _used(self.state)
        if state.free is not None and self.state.free is not None:
            assert state.free.free_extents() == self.state.free.free_extents()
            assert state.free.quarantined == self.state.free.quarantined
        self.state = state

    def teardown(self) -> None:
        self.load_an_image()
        self.replay_everything()

    # -- what always holds -----------------------------------------------------------------------------

    @invariant()
    def nothing_is_broken(self) -> None:
        assert list(problems(self.state)) == []

    @invariant()
    def it_is_the_same_filesystem(self) -> None:
        nodes = self.naive.all()
        assert set(self.state.inodes) == set(nodes)
        assert self.state.next_ino == self.naive.next_number
        assert self.state.orphans == set(self.naive.nameless)
        assert self.state.frozen == self.naive.frozen
        nlinks, parents = self.naive.nlinks(), self.naive.parents()
        for number, node in nodes.items():
            inode = self.state.inodes[Ino(number)]
            self._same(inode, node)
            assert inode.nlink == nlinks[number], node
            if inode.directory is not None and number in parents:
                assert inode.directory.parent == parents[number]
        if self.state.free is not None:
            assert self.state.free.used_blocks == self.naive.used_blocks()
            assert self.state.free.free_blocks == self.room()

    def _same(self, inode: Inode, node: Node) -> None:
        assert (inode.mode, inode.uid, inode.gid) == (node.mode, node.uid, node.gid)
        assert (inode.atime_ns, inode.mtime_ns, inode.ctime_ns) == (node.atime, node.mtime, node.ctime)
        assert (inode.size_bytes, inode.prealloc_bytes) == (node.size, node.prealloc)
        assert (inode.xattrs or {}) == node.xattrs
        assert (inode.pinned, inode.mark, inode.target) == (node.pinned, node.mark, node.target)
        assert inode.backing_id == node.backing
        if self.extents:
            assert inode.block_count == node.blocks
        if inode.directory is None or node.entries is None:
            assert inode.directory is None
            assert node.entries is None
            return
        listed = list(inode.directory.after(0))
        assert {name: ino for _, name, ino in listed} == {
            name: child.number for name, child in node.entries.items()
        }
        assert [cookie for cookie, _, _ in listed] == sorted({cookie for cookie, _, _ in listed})
        assert all(inode.directory.get(name) == ino for _, name, ino in listed)


def _used(state: State) -> dict[int, tuple[int, int]]:
    return {uid: (owned.files, owned.xattr_bytes) for uid, owned in state.usage.items() if owned.files}


class AgainstNaiveWithExtents(AgainstNaive):
    """The same where files are lists of blocks of one region."""

    extents = True


TestAgainstNaive = AgainstNaive.TestCase
TestAgainstNaive.settings = settings(max_examples=EXAMPLES, stateful_step_count=50, deadline=None)
TestAgainstNaiveWithExtents = AgainstNaiveWithExtents.TestCase
TestAgainstNaiveWithExtents.settings = settings(max_examples=EXAMPLES, stateful_step_count=50, deadline=None)
