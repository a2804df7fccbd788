"""pyfuse3's handlers over an engine of fakes: errors, dedupe, and the odd corners of pyfuse3's contract."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pyfuse3
import pytest
import trio

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.types import ROOT_INO, Ino
from guestmemfs_fuse.fuse.operations import GuestOperations
from tests.unit.engine.fakes import Bench


@dataclass(frozen=True)
class Asked:
    unique: int
    resent: bool = False


class Caller:
    """A bench, the operations on it, and the request they believe to serve."""

    def __init__(self) -> None:
        self.bench = Bench()
        self.request: Asked | None = None
        self.operations = GuestOperations(self.bench.engine, lambda token: self.request)
        self.ctx: Any = SimpleNamespace(uid=0, gid=0, pid=1, umask=0)

    def call(self, name: str, *args: Any) -> Any:
        async def run() -> Any:
            return await getattr(self.operations, name)(*args)

        return trio.run(run)

    def errno_of(self, name: str, *args: Any) -> int:
        with pytest.raises(pyfuse3.FUSEError) as raised:
            self.call(name, *args)
        return int(raised.value.errno)


def make_file(caller: Caller, name: bytes = b"ram") -> Ino:
    return caller.bench.engine.make(cmd.Make(ROOT_INO, name, stat.S_IFREG | 0o600, 0, 0))


def test_a_bug_becomes_eio_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caller = Caller()

    def broken(ino: Ino) -> None:
        raise ZeroDivisionError("a bug")

    caller.bench.region.create = broken  # type: ignore[method-assign]
    assert caller.errno_of("create", ROOT_INO, b"x", 0o600, 0, caller.ctx) == errno.EIO
    assert "a bug" in caplog.text


def test_an_inode_that_is_gone_is_stale() -> None:
    caller = Caller()
    assert caller.errno_of("getattr", 77, caller.ctx) == errno.ESTALE


def test_reading_and_writing_are_refused() -> None:
    caller = Caller()
    ino = make_file(caller)
    assert caller.errno_of("read", ino, 0, 10) == errno.EINVAL
    assert caller.errno_of("write", ino, 0, b"x") == errno.EINVAL


def test_regression_direct_io_is_refused_where_no_file_can_be_mapped() -> None:
    """The kernel answered EIO: what stands in for a backing there cannot be opened with O_DIRECT."""
    caller = Caller()
    ino = make_file(caller)
    caller.call("open", ino, os.O_RDWR | os.O_DIRECT, caller.ctx)
    caller.bench.region.passthrough = False
    caller.call("open", ino, os.O_RDWR, caller.ctx)
    for call in (("open", ino), ("create", ROOT_INO, b"new", 0o600)):
        assert caller.errno_of(*call, os.O_RDWR | os.O_DIRECT, caller.ctx) == errno.EINVAL
    assert caller.call("lookup", ROOT_INO, b"new", caller.ctx).st_ino == 0


def test_a_missing_name_is_answered_so_that_the_kernel_may_cache_it() -> None:
    caller = Caller()
    entry = caller.call("lookup", ROOT_INO, b"nothing", caller.ctx)
    assert entry.st_ino == 0
    assert entry.entry_timeout > 86_400


def test_a_resent_setxattr_with_create_is_answered_with_success_before_it_can_say_eexist() -> None:
    caller = Caller()
    ino = make_file(caller)
    caller.request = Asked(9)
    caller.call("setxattr", ino, b"user.a", b"1", caller.ctx)
    caller.request = Asked(9, resent=True)
    # pyfuse3 asks getxattr first; its errno goes into the reply as it is, and 0 is success
    assert caller.errno_of("getxattr", ino, b"user.a", caller.ctx) == 0


def test_a_file_with_holes_is_not_cached_and_a_full_one_is() -> None:
    caller = Caller()
    ino = make_file(caller)
    trio.run(caller.bench.engine.memory.resize, ino, 4096 * 2)
    assert caller.call("getattr", ino, caller.ctx).attr_timeout > 86_400
    caller.bench.region.memory[ino] -= 4096
    assert caller.call("getattr", ino, caller.ctx).attr_timeout == 0


def test_a_file_that_holds_a_saved_guest_does_not_open() -> None:
    caller = Caller()
    ino = make_file(caller)
    caller.bench.engine.change(cmd.Mark(ino, b"guest-1"))
    assert caller.errno_of("open", ino, 0, caller.ctx) == errno.EBUSY
    caller.bench.engine.allow_restore(ino, True)
    assert caller.call("open", ino, 0, caller.ctx).fh == ino


def test_attributes_other_than_user_ones_do_not_exist() -> None:
    caller = Caller()
    ino = make_file(caller)
    assert caller.errno_of("getxattr", ino, b"security.capability", caller.ctx) == errno.EOPNOTSUPP
    assert caller.errno_of("setxattr", ino, b"trusted.x", b"", caller.ctx) == errno.EOPNOTSUPP
