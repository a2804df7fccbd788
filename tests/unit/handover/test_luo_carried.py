"""What systemd carries through a kexec: an instance again, or refused with nothing let go of."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trio

from guestmemfs_fuse.cli import carried
from guestmemfs_fuse.cli.claim import claimed
from guestmemfs_fuse.core.errors import MetadataError, UnsupportedError, UsageError
from guestmemfs_fuse.core.types import Ino
from guestmemfs_fuse.handover import fdnames, fdstore, luo, luo_carried, luo_preserve, luo_unpack
from guestmemfs_fuse.handover.luo_preserve import Preservation
from guestmemfs_fuse.metadata import instance
from guestmemfs_fuse.metadata.instance_config import Paths
from guestmemfs_fuse.region import memfd
from tests.unit.handover.fake_luo import FakeLuo, FakeStore
from tests.unit.handover.test_luo import Old, assert_all_there

Fds = dict[str, list[int]]


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Old:
    """An instance whose descriptors systemd keeps."""
    monkeypatch.setattr(luo_preserve, "holder_pid", lambda _: None)
    return Old(tmp_path / "old")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """Where the instance is to be in the new kernel, with a mount that needs no root."""

    def create(store: FakeStore, size_bytes: int, numa_node: int | None) -> Fds:
        store.store(memfd.MOUNT_NAME, 2)
        return {memfd.MOUNT_NAME: [os.dup(2)]}

    monkeypatch.setattr(memfd, "create", create)
    monkeypatch.setenv("GUESTMEMFS_RUN_DIR", str(tmp_path / "run"))
    return Paths(str(tmp_path / "run" / "guests"))


def preserved(old: Old, store: FakeStore) -> Preservation:
    for ino, fd in old.files.items():
        memfd.store_file(store, Ino(ino), fd)
    store.store(memfd.MOUNT_NAME, 2)
    preservation = Preservation(old.config, old.paths, store)  # type: ignore[arg-type]
    trio.run(lambda: preservation.preserve(old.engine, old.files, by_store=True))
    return preservation


@pytest.fixture
def kexec(monkeypatch: pytest.MonkeyPatch) -> Callable[[FakeStore], None]:
    """systemd carries memfds only: no mount, no connection."""

    def go(store: FakeStore) -> None:
        store.remove(memfd.MOUNT_NAME)
        for module in (luo_carried, luo_unpack, instance):
            monkeypatch.setattr(module, "current_boot_id", lambda: "of the next kernel")

    return go


Kexec = Callable[[FakeStore], None]


def settle(store: FakeStore, monkeypatch: pytest.MonkeyPatch) -> tuple[bool, Fds]:
    """As the unit's start does; whether it came through, and what is passed on to the daemon."""
    passed: Fds = {}

    def pass_on(environ: object, name: str, fd: int) -> None:
        with claimed(instance.state_dir_of("guests"), 0):  # or its descriptor would be in the way
            passed[name] = [fd]

    monkeypatch.setattr(fdstore, "pass_on", pass_on)
    monkeypatch.setattr(fdstore.Notifier, "from_environment", lambda *_: store)
    return carried.settle("guests", None, store.received(), {}), passed


def test_preserving_stores_the_manifest_and_asks_nothing_of_the_kernel(
    old: Old, store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(luo_preserve, "_real_kernel", lambda: pytest.fail("a session of our own"))
    preservation = preserved(old, store)
    assert preservation.is_preserved and old.engine.state.frozen
    assert luo_unpack.read_manifest(store.fds[fdnames.CARRIED][0]).thaw
    after_sigkill = Preservation(old.config, old.paths, store, store.received())  # type: ignore[arg-type]
    assert after_sigkill.is_preserved
    trio.run(preservation.abort, old.engine)
    assert fdnames.CARRIED not in store.fds and not old.engine.state.frozen


def test_never_both_at_once(old: Old, store: FakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel: Any = FakeLuo()
    preservation = Preservation(old.config, old.paths, store, kernel=kernel)  # type: ignore[arg-type]
    with pytest.raises(UnsupportedError, match="systemd"):
        trio.run(preservation.preserve, old.engine, old.files)
    monkeypatch.setattr(luo_preserve, "holder_pid", lambda _: 1)
    with pytest.raises(UsageError, match="holder"):
        trio.run(lambda: preservation.preserve(old.engine, old.files, by_store=True))
    assert kernel.calls == [] and not store.fds and not old.engine.state.frozen


def test_what_systemd_carried_is_the_instance_again(
    old: Old, store: FakeStore, home: Paths, kexec: Kexec, monkeypatch: pytest.MonkeyPatch
) -> None:
    preserved(old, store)
    kexec(store)
    received = store.received()
    came, passed = settle(store, monkeypatch)
    assert came and list(passed) == [memfd.MOUNT_NAME]
    monkeypatch.setattr(luo_preserve, "current_boot_id", lambda: "of the next kernel")
    daemon = Preservation(old.config, home, store, received)  # type: ignore[arg-type]
    assert not daemon.is_preserved, "the manifest it is started with has done its work"
    assert_all_there(old, store, home)
    assert fdnames.CARRIED not in store.fds
    assert settle(store, monkeypatch) == (False, {}), "the next start finds nothing to do"


def test_a_file_that_was_not_carried_is_missed_and_the_rest_kept(
    old: Old, store: FakeStore, home: Paths, kexec: Kexec, monkeypatch: pytest.MonkeyPatch
) -> None:
    preserved(old, store)
    kexec(store)
    lost = f"region-ino-{next(iter(old.files)):x}"
    store.remove(lost)
    before = set(store.fds)
    with pytest.raises(MetadataError, match="did not carry"):
        settle(store, monkeypatch)
    assert set(store.fds) == before and not os.path.exists(home.config)


def test_a_manifest_of_another_instance_is_refused(
    old: Old, store: FakeStore, home: Paths, kexec: Kexec, monkeypatch: pytest.MonkeyPatch
) -> None:
    preserved(old, store)
    kexec(store)
    manifest = luo_unpack.read_manifest(store.fds[fdnames.CARRIED][0])
    fd = os.memfd_create("other")
    os.write(fd, luo.encode(replace(manifest, name="others")))
    store.store(fdnames.CARRIED, fd)
    with pytest.raises(MetadataError, match="others"):
        settle(store, monkeypatch)
    assert fdnames.CARRIED in store.fds and not os.path.exists(home.config)


def test_dying_before_the_manifest_is_let_go_of_is_put_right_by_the_next_start(
    old: Old, store: FakeStore, home: Paths, kexec: Kexec, monkeypatch: pytest.MonkeyPatch
) -> None:
    preserved(old, store)
    kexec(store)
    with monkeypatch.context() as patch:
        patch.setattr(luo_carried, "let_go_of_manifest", lambda _: None)
        assert settle(store, monkeypatch)[0]
    assert fdnames.CARRIED in store.fds
    assert not settle(store, monkeypatch)[0]
    assert fdnames.CARRIED not in store.fds and memfd.MOUNT_NAME in store.fds


def test_files_without_a_manifest_are_let_go_of_and_that_is_said(
    old: Old,
    store: FakeStore,
    home: Paths,
    kexec: Kexec,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    preserved(old, store)
    kexec(store)
    store.remove(fdnames.CARRIED)
    assert not settle(store, monkeypatch)[0]
    assert not store.fds
    assert "3 files of instance guests came through the kexec without metadata" in capsys.readouterr().err


def test_memory_of_this_boot_is_never_let_go_of(
    old: Old, store: FakeStore, home: Paths, monkeypatch: pytest.MonkeyPatch
) -> None:
    trio.run(preserved(old, store).abort, old.engine)
    before = set(store.fds)
    assert not settle(store, monkeypatch)[0]  # somebody removed the state directory
    assert set(store.fds) == before
