"""What the relay answers without libfuse is, byte for byte, what libfuse and pyfuse3 would have answered."""

from __future__ import annotations

import errno
import stat
from collections.abc import Mapping
from types import MappingProxyType

import pyfuse3
import pytest
import trio

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.types import ROOT_INO, Ino
from guestmemfs_fuse.fuse import abi
from guestmemfs_fuse.fuse import session as seam
from guestmemfs_fuse.fuse.abi import Opcode
from guestmemfs_fuse.fuse.answers import DirectAnswer
from guestmemfs_fuse.fuse.direct import DirectCalls
from guestmemfs_fuse.fuse.engine_hooks import EngineHooks
from guestmemfs_fuse.fuse.operations import GuestOperations
from guestmemfs_fuse.fuse.relay import Relay
from tests.unit.engine.fakes import BLOCK, Bench
from tests.unit.fuse.fake_session import FakeKernel, KernelGot, init_request

Asking = tuple[Opcode, int, bytes]
"""Opcode, nodeid, body."""

NOW_NS = 1_700_000_000_123_456_789


def named(name: bytes) -> bytes:
    return name + b"\0"


def renamed(parent: int, name: bytes, new_name: bytes) -> bytes:
    return abi.RENAME_IN.pack(parent) + named(name) + named(new_name)


def furnished() -> Bench:
    """The root (1) with: ram (2, two blocks), sparse (3), sub (4) with inner (5), link (6), pinned (7)."""
    bench = Bench()
    engine = bench.engine
    engine.ledger._clock = lambda: NOW_NS

    def make(name: bytes, mode: int, parent: Ino = ROOT_INO, target: bytes = b"") -> Ino:
        return engine.make(cmd.Make(parent, name, mode, 1000, 100, target=target))

    ram, sparse = make(b"ram", stat.S_IFREG | 0o600), make(b"sparse", stat.S_IFREG | 0o4755)
    sub = make(b"sub", stat.S_IFDIR | 0o1777)
    make(b"inner", stat.S_IFREG, sub)
    make(b"link", stat.S_IFLNK | 0o777, target=b"ram")
    pinned = make(b"pinned", stat.S_IFREG | 0o600)
    for ino in (ram, sparse):
        trio.run(engine.memory.resize, ino, 2 * BLOCK)
    bench.region.memory[sparse] = BLOCK
    engine.change(cmd.Pin(pinned, True))
    engine.change(cmd.SetAttrs(sparse, atime_ns=-1, mtime_ns=(1 << 63) - 1))
    return bench


async def _answers(
    bench: Bench, script: list[Asking], direct: Mapping[int, DirectAnswer], unique: int = 10
) -> list[KernelGot]:
    kernel = FakeKernel()
    relay = Relay(kernel.device_fd, EngineHooks(bench.engine), direct=direct)
    assert seam.attach(relay)
    pyfuse3.init(GuestOperations(bench.engine, relay.find_request), relay.session_path, set())
    try:
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: relay.run(pump=False))
                nursery.start_soon(pyfuse3.main)
                await kernel.send_raw(init_request())
                await relay.start_fresh()
                await kernel.receive()
                numbered = enumerate(script, start=unique)
                got = [await kernel.call(op, body, unique=n, nodeid=ino) for n, (op, ino, body) in numbered]
                relay.end_session()
        return got
    finally:
        pyfuse3.close(unmount=False)
        seam.detach()
        relay.close()
        kernel.close()


def both_ways(script: list[Asking]) -> list[KernelGot]:
    """What libfuse answers, after comparing it; both have had the same effect."""
    through, direct = furnished(), furnished()
    answered = trio.run(_answers, through, script, MappingProxyType({}))
    assert trio.run(_answers, direct, script, DirectCalls(direct.engine).by_opcode) == answered
    assert direct.journal.transactions == through.journal.transactions
    return answered


NAMES = [b"ram", b"sparse", b"sub", b"link", b"none", b".", b"..", b"x" * 255, b"x" * 256]


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_lookups_in_the_root(name: bytes) -> None:
    (got,) = both_ways([(Opcode.LOOKUP, ROOT_INO, named(name))])
    assert got.error == (-errno.ENAMETOOLONG if len(name) > 255 else 0)


def test_lookups_where_nothing_can_be() -> None:
    errors = [
        got.error
        for got in both_ways(
            [
                (Opcode.LOOKUP, 2, named(b"x")),
                (Opcode.LOOKUP, 99, named(b"x")),
                (Opcode.LOOKUP, 2, named(b"..")),
                (Opcode.UNLINK, ROOT_INO, named(b"ram")),
                (Opcode.LOOKUP, 2, named(b".")),
            ]
        )
    ]
    assert errors == [-errno.ENOTDIR, -errno.ESTALE, -errno.ENOTDIR, 0, -errno.ENOENT]


def test_attributes_of_everything() -> None:
    got = both_ways([(Opcode.GETATTR, ino, bytes(16)) for ino in (1, 2, 3, 4, 5, 6, 7, 99)])
    assert [each.error for each in got] == [0] * 7 + [-errno.ESTALE]
    assert len({each.body for each in got}) == 8


def test_unlinks() -> None:
    names = (b"ram", b"ram", b"sub", b"pinned", b"link", b"x" * 300)
    got = both_ways([(Opcode.UNLINK, ROOT_INO, named(name)) for name in names])
    refused = [-errno.ENOENT, -errno.EISDIR, -errno.EBUSY]
    assert [each.error for each in got] == [0, *refused, 0, -errno.ENAMETOOLONG]


def test_renames() -> None:
    script = [
        renamed(1, b"ram", b"other"),
        renamed(1, b"ram", b"again"),
        renamed(4, b"other", b"inner"),
        renamed(4, b"sub", b"below"),
        renamed(1, b"sparse", b"pinned"),
        renamed(1, b"sparse", b"sub"),
        renamed(99, b"sparse", b"x"),
    ]
    got = both_ways([(Opcode.RENAME, ROOT_INO, body) for body in script])
    refused = (errno.EINVAL, errno.EBUSY, errno.EISDIR, errno.ESTALE)
    assert [each.error for each in got] == [0, -errno.ENOENT, 0, *(-number for number in refused)]


def test_a_resent_change_that_was_done_is_not_done_again() -> None:
    bench = furnished()
    direct = DirectCalls(bench.engine).by_opcode
    script = [(Opcode.UNLINK, 1, named(b"ram"))]
    (first,) = trio.run(_answers, bench, script, direct)
    (again,) = trio.run(_answers, bench, script, direct, 10 | abi.UNIQUE_RESEND)
    assert (first.error, again.error) == (0, 0)
    (another,) = trio.run(_answers, bench, script, direct, 12)
    assert another.error == -errno.ENOENT


@pytest.mark.parametrize(
    ("opcode", "body"),
    [
        (Opcode.LOOKUP, b"unterminated"),
        (Opcode.LOOKUP, b"two\0names\0"),
        (Opcode.UNLINK, b""),
        (Opcode.RENAME, b"short"),
        (Opcode.RENAME, abi.RENAME_IN.pack(1) + b"one\0"),
    ],
)
def test_what_the_kernel_never_sends_is_answered_eio(opcode: Opcode, body: bytes) -> None:
    bench = furnished()
    (got,) = trio.run(_answers, bench, [(opcode, 1, body)], DirectCalls(bench.engine).by_opcode)
    assert got == (-errno.EIO, 10, b"")
