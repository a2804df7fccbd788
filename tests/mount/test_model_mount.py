"""Random calls on the mount and on a tmpfs beside it: the same answers, the same tree, whatever happens.

What happens includes the daemon being replaced and killed between two calls. After each step the answers are
compared, and everything that can be seen: types, modes, owners, links, sizes, targets, attributes, bytes
written through mappings, and files that are open without a name.

GUESTMEMFS_MODEL_EXAMPLES=1000 makes it run for a night.
"""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.cli import Instance
from tests.mount.posix.places import side_by_side
from tests.mount.posix.table import Places
from tests.mount.posix.tree import Tree

EXAMPLES = int(os.environ.get("GUESTMEMFS_MODEL_EXAMPLES", "12"))
STEPS = 40
MIB = 1 << 20

names = st.sampled_from(["a", "b", "c", "é\n"])
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
users = st.sampled_from(["root", "root", "alice", "bob"])
modes = st.sampled_from([0o777, 0o755, 0o700, 0o1777, 0o2775, 0o644, 0o600, 0o000, 0o4755])
sizes = st.sampled_from([0, 1, 4095, 4096, 100_000, 2 * MIB - 1, 2 * MIB, 2 * MIB + 1, 3 * MIB])
owners = st.sampled_from([-1, 0, 61001, 61002, 61900])
targets = st.sampled_from(["a", "b", "../a", "a/b", ".", "no", "c/../b"])
attributes = st.sampled_from(["user.a", "user.b"])
kinds = st.sampled_from([stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK])
open_flags = st.sampled_from(
    [
        os.O_RDWR | os.O_CREAT,
        os.O_RDWR | os.O_CREAT | os.O_EXCL,
        os.O_RDWR,
        os.O_RDONLY,
        os.O_WRONLY | os.O_TRUNC,
        os.O_RDONLY | os.O_DIRECTORY,
        os.O_RDWR | os.O_NOFOLLOW,
        os.O_RDONLY,
        os.O_TMPFILE | os.O_RDWR,
    ]
).map(lambda flags: flags | os.O_NONBLOCK)  # pipes are among the files

_mount: list[tuple[Places, Instance]] = []


@pytest.fixture(scope="module", autouse=True)
def _both() -> Iterator[None]:
    with side_by_side("model", "128M") as made:
        _mount.append(made)
        yield
        _mount.clear()


class MountAgainstTmpfs(RuleBasedStateMachine):
    """Two trees, one of each filesystem, to which the same things are done."""

    def __init__(self) -> None:
        super().__init__()
        places, self.instance = _mount[-1]
        self.trees = [places.mount.tree(""), places.control.tree("")]
        self.open: dict[int, tuple[int, int]] = {}
        self.disturbances = 0

    def teardown(self) -> None:
        for tree in self.trees:
            tree.remove()

    def both(self, user: str, call: str, *args: object) -> Any:
        """Make a call on both; the answers must be the same."""
        ours, control = (getattr(tree.hands(user).tries, call)(*args) for tree in self.trees)
        assert ours == control, f"{user}: {call}{args}: the mount says {ours!r}, tmpfs {control!r}"
        return ours

    # -- names -----------------------------------------------------------------------------------------

    @rule(user=users, path=paths, mode=modes)
    def mkdir(self, user: str, path: str, mode: int) -> None:
        self.both(user, "mkdir", path, mode)

    @rule(user=users, path=paths, kind=kinds, mode=modes)
    def mknod(self, user: str, path: str, kind: int, mode: int) -> None:
        self.both(user, "mknod", path, kind | mode)

    @rule(user=users, leads_to=targets, path=paths)
    def symlink(self, user: str, leads_to: str, path: str) -> None:
        self.both(user, "symlink", leads_to, path)

    @rule(user=users, path=paths)
    def unlink(self, user: str, path: str) -> None:
        self.both(user, "unlink", path)

    @rule(user=users, path=paths)
    def rmdir(self, user: str, path: str) -> None:
        self.both(user, "rmdir", path)

    @rule(user=users, old=paths, new=paths, flags=st.sampled_from([0, 0, 1, 2]))
    def rename(self, user: str, old: str, new: str, flags: int) -> None:
        self.both(user, "rename", old, new, flags)

    @rule(user=users, old=paths, new=paths)
    def link(self, user: str, old: str, new: str) -> None:
        self.both(user, "link", old, new)

    @rule(user=users, path=paths)
    def listdir(self, user: str, path: str) -> None:
        self.both(user, "listdir", path)

    @rule(path=paths)
    def readlink(self, path: str) -> None:
        self.both("root", "readlink", path)

    # -- attributes ------------------------------------------------------------------------------------

    @rule(user=users, path=paths, mode=modes)
    def chmod(self, user: str, path: str, mode: int) -> None:
        self.both(user, "chmod", path, mode)

    @rule(user=users, path=paths, uid=owners, gid=owners)
    def chown(self, user: str, path: str, uid: int, gid: int) -> None:
        self.both(user, "chown", path, uid, gid)

    @rule(user=users, path=paths, times=st.tuples(st.integers(0, 1 << 60), st.integers(0, 1 << 60)))
    def utimens(self, user: str, path: str, times: tuple[int, int]) -> None:
        if self.both(user, "utimens", path, times) == "ok":
            seen = [tree.hands("root").stat(path) for tree in self.trees]
            assert {(each.st_atime_ns, each.st_mtime_ns) for each in seen} == {times}

    @rule(user=users, path=paths, how=st.sampled_from([os.R_OK, os.W_OK, os.X_OK]))
    def access(self, user: str, path: str, how: int) -> None:
        self.both(user, "access", path, how)

    @rule(
        user=users,
        path=paths,
        name=attributes,
        value=st.binary(max_size=40),
        flags=st.sampled_from([0, 0, 1, 2]),
    )
    def setxattr(self, user: str, path: str, name: str, value: bytes, flags: int) -> None:
        self.both(user, "setxattr", path, name, value, flags)

    @rule(user=users, path=paths, name=attributes)
    def removexattr(self, user: str, path: str, name: str) -> None:
        self.both(user, "removexattr", path, name)

    # -- memory ----------------------------------------------------------------------------------------

    @rule(user=users, path=paths, size=sizes)
    def truncate(self, user: str, path: str, size: int) -> None:
        self.both(user, "truncate", path, size)

    @rule(path=paths, offset=sizes, byte=st.integers(1, 255))
    def store(self, path: str, offset: int, byte: int) -> None:
        """Write some bytes through a mapping, where the file is long enough."""
        self.both("root", "store", path, offset, bytes([byte]) * 1000)

    @rule(path=paths, mode=st.sampled_from([0, 1, 3]), offset=sizes, length=sizes)
    def fallocate(self, path: str, mode: int, offset: int, length: int) -> None:
        self.both("root", "fallocates", path, mode, offset, length)

    # -- open files ------------------------------------------------------------------------------------

    @rule(user=users, path=paths, flags=open_flags, mode=modes)
    def open_and_close(self, user: str, path: str, flags: int, mode: int) -> None:
        self.both(user, "opens", path, flags, mode)

    @rule(path=paths, flags=open_flags)
    def keep_open(self, path: str, flags: int) -> None:
        fds = tuple(tree.hands("root").tries.open(path, flags, 0o640) for tree in self.trees)
        assert fds[0] == fds[1] or all(isinstance(fd, int) for fd in fds), fds
        if isinstance(fds[0], int):
            self.open[len(self.open)] = fds

    def on_open(self, pick: int, call: str, *args: object) -> None:
        fds = self.open[pick % len(self.open)]
        answers = [getattr(tree.tries, call)(fd, *args) for tree, fd in zip(self.trees, fds, strict=True)]
        assert answers[0] == answers[1], f"{call}{args} of an open file: {answers}"

    @precondition(lambda self: self.open)
    @rule(pick=st.integers(0, 100), size=sizes)
    def ftruncate(self, pick: int, size: int) -> None:
        self.on_open(pick, "ftruncate", size)

    @precondition(lambda self: self.open)
    @rule(pick=st.integers(0, 100), mode=modes)
    def fchmod(self, pick: int, mode: int) -> None:
        self.on_open(pick, "fchmod", mode)

    @precondition(lambda self: self.open)
    @rule(pick=st.integers(0, 100), path=paths)
    def name_an_open_file(self, pick: int, path: str) -> None:
        self.on_open(pick, "linkat", "", path, 0x1000)

    # -- the daemon ------------------------------------------------------------------------------------

    @precondition(lambda self: self.disturbances < 1)
    @rule()
    def restart(self) -> None:
        self.disturbances += 1
        self.instance.cli.run("restart", self.instance.name)

    @precondition(lambda self: self.disturbances < 1)
    @rule()
    def kill(self) -> None:
        """SIGKILL: the next call may have to wait, it must not fail."""
        self.disturbances += 1
        os.kill(self.instance.daemon_pid, signal.SIGKILL)

    # -- what must be the same -------------------------------------------------------------------------

    @initialize(given=st.sampled_from([(), ("a",), ("a", "b"), ("a", "a/b", "a/b/c")]))
    def begin(self, given: tuple[str, ...]) -> None:
        for path in given:
            self.both("root", "mkdir", path, 0o777)

    @invariant()
    def the_trees_are_the_same(self) -> None:
        ours, control = (tree.portrait() for tree in self.trees)
        assert ours == control, f"the mount has {ours}, tmpfs has {control}"

    @invariant()
    def open_files_are_the_same(self) -> None:
        for fds in self.open.values():
            ours, control = (_figures(tree, fd) for tree, fd in zip(self.trees, fds, strict=True))
            assert ours == control, f"an open file: the mount says {ours}, tmpfs {control}"


def _figures(tree: Tree, fd: int) -> tuple[int, ...]:
    at = tree.fstat(fd)
    size = 0 if stat.S_ISDIR(at.st_mode) else at.st_size
    return at.st_mode, at.st_nlink, at.st_uid, at.st_gid, size


def test_the_mount_is_like_tmpfs() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        MountAgainstTmpfs,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
        ),
    )
