"""An instance's whole life over a real store, so that it can be killed or fail at every single step.

Everything that outlives a daemon is here: metadata files, region, the kernel's side of the connection. Every
call that changes one of them is a numbered step of MemoryFiles, whose `fault` decides what happens at it.
A killed daemon is replaced, the request it was working on comes again (as NOTIFY_RESEND has it), and life
goes on; in the end everything must be as if nothing had happened.
"""

from __future__ import annotations

import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core import image
from guestmemfs_fuse.core.check import problems
from guestmemfs_fuse.core.errors import FsError
from guestmemfs_fuse.core.state import Inode, State, new_state
from guestmemfs_fuse.core.types import ROOT_INO, BackingId, Ino
from guestmemfs_fuse.engine import fsck_offline
from guestmemfs_fuse.engine.engine import Engine
from guestmemfs_fuse.engine.memory import KEEP_SIZE, PUNCH_HOLE
from guestmemfs_fuse.metadata import store
from guestmemfs_fuse.metadata.chain import Chain
from guestmemfs_fuse.metadata.store import Durability, Store
from guestmemfs_fuse.region.base import Filled, Stop
from tests.unit.engine.fakes import BLOCK, FakeKernel
from tests.unit.engine.fsck_rig import BLOCKS, REGION, StrictRegion, lookup
from tests.unit.metadata.memory_files import Crash, Fault, MemoryFiles, no_fault


class SteppedRegion(StrictRegion):
    """A region whose every change is a step of the files' counter: one clock for all of an instance."""

    def __init__(self, files: MemoryFiles) -> None:
        super().__init__(BLOCKS * BLOCK)
        self.files = files

    def create(self, ino: Ino) -> None:
        self.files.step("create backing", f"{ino}", partial(super().create, ino))

    def fill(self, inode: Inode, offset_bytes: int, end_bytes: int, stop: Stop) -> Filled:
        filled: list[Filled] = []
        fill = super().fill
        self.files.step(
            "fill", f"{inode.ino}", lambda: filled.append(fill(inode, offset_bytes, end_bytes, stop))
        )
        return filled[0]

    def take_back(self, ino: Ino, filled: Filled) -> None:
        self.files.step("take back", f"{ino}", partial(super().take_back, ino, filled))

    def settle(self, inode: Inode) -> None:
        self.files.step("settle", f"{inode.ino}", partial(super().settle, inode))

    def punch(self, inode: Inode, offset_bytes: int, length_bytes: int) -> None:
        self.files.step("punch", f"{inode.ino}", lambda: None)

    def discard(self, inode: Inode) -> None:
        self.files.step("discard", f"{inode.ino}", partial(super().discard, inode))


class SteppedKernel(FakeKernel):
    """The kernel's side of the connection."""

    def __init__(self, files: MemoryFiles) -> None:
        super().__init__()
        self.files = files

    def backing_open(self, backing_fd: int) -> BackingId:
        ids: list[BackingId] = []
        register = super().backing_open
        self.files.step("register", "", lambda: ids.append(register(backing_fd)))
        return ids[0]

    def backing_close(self, backing_id: BackingId) -> None:
        self.files.step("unregister", "", lambda: self.open_ids.discard(backing_id))


@dataclass(frozen=True, slots=True)
class Asked:
    """A FUSE request's number, and whether it comes for the second time."""

    unique: int
    resent: bool
    pid: int = 0


Request = Callable[["Life", Asked], Awaitable[object]]


def _make(name: bytes, kind: int = stat.S_IFREG, parent: bytes = b"") -> Request:
    async def request(life: Life, asked: Asked) -> None:
        command = cmd.Make(life.ino(parent), name, kind | 0o600, 0, 0)
        ino = life.engine.make(command, asked)
        if kind == stat.S_IFREG:  # as fuse/operations.create does
            life.engine.backings.ensure(ino)
            life.kernel.held.add(ino)

    return request


def _change(command: Callable[[Life], cmd.Command]) -> Request:
    async def request(life: Life, asked: Asked) -> None:
        life.engine.change(command(life), asked)

    return request


def _resize(name: bytes, blocks: float) -> Request:
    async def request(life: Life, asked: Asked) -> None:
        await life.engine.memory.resize(life.ino(name), int(blocks * BLOCK), asked)

    return request


def _fallocate(name: bytes, mode: int, blocks: int) -> Request:
    async def request(life: Life, asked: Asked) -> None:
        await life.engine.memory.fallocate(life.ino(name), mode, 0, blocks * BLOCK, asked)

    return request


async def _forget(life: Life, asked: Asked) -> None:
    """The kernel drops what has no name; a FORGET is never sent twice, whoever read it."""
    life.kernel.held -= life.engine.state.orphans
    life.engine.orphans.forgotten(list(life.engine.state.orphans))
    await life.engine.orphans.caught_up()


async def _freeze_and_thaw(life: Life, asked: Asked) -> None:
    await life.engine.freeze()
    life.engine.thaw()


async def _fold(life: Life, asked: Asked) -> None:
    life.store.rotate()
    life.store.compact_sealed()


async def _hand_over(life: Life, asked: Asked) -> None:
    """The successor reads ahead while the old daemon serves, and takes over what came since."""
    ahead = store.read_only_view(life.files, REGION)
    life.engine.change(cmd.SetXattr(ROOT_INO, b"user.since", b"1"), asked)
    life.store.close()
    await life.start(ahead)


SCRIPT: tuple[Request, ...] = (
    _make(b"d", stat.S_IFDIR),
    _make(b"a"),
    _resize(b"a", 2.5),
    _make(b"b", parent=b"d"),
    _fallocate(b"a", KEEP_SIZE, 5),
    _change(lambda life: cmd.Link(life.ino(b"a"), life.ino(b"d"), b"a2")),
    _fold,
    _resize(b"a", 1),
    _change(lambda life: cmd.SetXattr(life.ino(b"a"), b"user.x", b"1")),
    _fallocate(b"a", KEEP_SIZE | PUNCH_HOLE, 1),
    _change(lambda life: cmd.Rename(ROOT_INO, b"a", life.ino(b"d"), b"b")),
    _forget,
    _hand_over,
    _make(b"c"),
    _resize(b"c", 3),
    _freeze_and_thaw,
    _change(lambda life: cmd.SetAttrs(life.ino(b"c"), mode=0o640)),
    _change(lambda life: cmd.Unlink(ROOT_INO, b"c")),
    _forget,
    _fallocate(b"d/b", 0, 4),
    _make(b"e", stat.S_IFDIR),
    _change(lambda life: cmd.Rmdir(ROOT_INO, b"e")),
    _fold,
)


@dataclass
class Life:
    """One instance from its creation; `deaths` counts daemons that were killed."""

    files: MemoryFiles
    durability: Durability = Durability.KILL
    deaths: int = 0
    refusals: int = 0
    next_unique: int = 2
    kernel: SteppedKernel = field(init=False)
    region: SteppedRegion = field(init=False)

    @classmethod
    async def begin(cls, fault: Fault = no_fault, durability: Durability = Durability.KILL) -> Life:
        """A new instance with its first daemon; from now on `fault` may strike."""
        life = cls(MemoryFiles(), durability)
        life.region, life.kernel = SteppedRegion(life.files), SteppedKernel(life.files)
        state = new_state(region_bytes=BLOCKS * BLOCK, block_bytes=BLOCK, now_ns=1)
        Store.create(life.files, REGION, state, durability=durability).close()
        await life.start()
        life.files.fault, life.files.steps = fault, 0
        return life

    # -- daemons ------------------------------------------------------------------------------------

    async def start(self, ahead: Chain | None = None) -> None:
        """A daemon takes over: by the book of daemon.py."""
        opened = Store.open(self.files, REGION, durability=self.durability, warm=ahead)
        self.store = opened.store
        self.engine = Engine(opened.state, opened.store, self.region, self.kernel)
        self.engine.ledger._clock = lambda: 1
        if ahead is None:
            self.engine.recover()
            await self.engine.sweep()

    async def _reincarnate(self) -> None:
        """The daemon was killed; the same may happen to the next ones while they start."""
        while True:
            self.deaths += 1
            self.files = self.region.files = self.kernel.files = self._reborn()
            try:
                await self.start()
            except Crash:
                continue
            return

    def _reborn(self) -> MemoryFiles:
        survivor = self.files.reborn()
        survivor.fault, survivor.steps = self.files.fault, self.files.steps
        return survivor

    # -- requests -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """The whole script; every request is answered with success, once."""
        for request in SCRIPT:
            await self.ask(request)

    async def ask(self, request: Request) -> None:
        """One request, sent again as often as daemons die over it."""
        asked = Asked(self.next_unique, False)
        self.next_unique += 2
        while True:
            try:
                await request(self, asked)
            except Crash:
                await self._reincarnate()
                asked = Asked(asked.unique, True)
            else:
                return

    async def ask_until_granted(self, request: Request) -> None:
        """As a caller that tries again after an error; each time memory and disk must agree."""
        for _ in range(40):
            asked = Asked(self.next_unique, False)
            self.next_unique += 2
            before = self.tree()
            try:
                await request(self, asked)
            except (FsError, OSError):
                self.refusals += 1
                if self.store.read_only is None:
                    self.check_memory_is_disk()
                else:  # what was refused may stand on disk, whole: it could not be cut back
                    await self.start_anew()
            else:
                return
            if self.tree() != before and request not in (_fold, _hand_over, _forget, _freeze_and_thaw):
                return  # it was done although its caller got an error: possible where it had two parts
        raise AssertionError("no answer but refusals")

    async def start_anew(self) -> None:
        """An instance that went read-only is cured by its next daemon."""
        self.store.close()
        for _ in range(40):
            try:
                await self.start()
            except (FsError, OSError):
                self.refusals += 1
            else:
                return
        raise AssertionError("no daemon can start")

    # -- looking ------------------------------------------------------------------------------------

    def ino(self, path: bytes) -> Ino:
        found = lookup(self.engine.state, *[name for name in path.split(b"/") if name])
        assert found is not None, path
        return found

    def tree(self) -> object:
        """What a caller could see of it."""
        return _comparable(self.engine.state)

    def check_memory_is_disk(self) -> None:
        """What the daemon believes is what another would read."""
        stored = store.read_only_view(self.files, REGION).state
        assert tuple(image.dump(stored)) == tuple(image.dump(self.engine.state))

    async def outcome(self) -> object:
        """All that must be as if nothing had happened: after a last start and a last FORGET."""
        self.files.fault = lambda step, when: None
        self.store.close()
        await self.start()
        await _forget(self, Asked(0, False))
        assert list(problems(self.engine.state)) == []
        ids = {inode.backing_id for inode in self.engine.state.inodes.values()} - {None}
        assert self.kernel.open_ids <= ids, "a backing id that nobody knows keeps memory"
        if not self.refusals:
            assert self.kernel.open_ids == ids
        self.check_memory_is_disk()
        self.store.close()
        result = fsck_offline.check(self.files, REGION, self.region, repair=False)
        assert result.clean, result.findings
        return _comparable(self.engine.state), dict(self.region.sizes), dict(self.region.memory)


def _comparable(state: State) -> object:
    """Names, links, attributes; not numbers of backings or of requests."""
    rows = []
    for ino, inode in sorted(state.inodes.items()):
        entries = tuple(inode.directory.items()) if inode.directory is not None else None
        xattrs = tuple(name for name in inode.xattrs or ())
        rows.append((ino, inode.mode, inode.nlink, inode.size_bytes, inode.prealloc_bytes, xattrs, entries))
    return tuple(rows), state.frozen, state.next_ino
