"""Carrying a region across a (fake) kexec: whatever fails, nothing is let go of too early."""

from __future__ import annotations

import os
import stat
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest
import trio

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.errors import (
    CorruptMetadataError,
    ForeignMetadataError,
    GuestmemfsError,
    InstanceBusyError,
    MetadataError,
    UnknownFormatError,
    UnknownTargetError,
    UnsupportedError,
    UsageError,
)
from guestmemfs_fuse.core.state import State, new_state
from guestmemfs_fuse.core.types import ROOT_INO, Ino
from guestmemfs_fuse.engine.engine import Engine
from guestmemfs_fuse.handover import fdnames, luo, luo_preserve, luo_retrieve
from guestmemfs_fuse.handover.luo import Manifest
from guestmemfs_fuse.handover.luo_preserve import Preservation
from guestmemfs_fuse.handover.luo_retrieve import Retrieval
from guestmemfs_fuse.metadata import store as metadata
from guestmemfs_fuse.metadata.files import DirectoryFiles
from guestmemfs_fuse.metadata.instance_config import InstanceConfig, Paths
from guestmemfs_fuse.region import memfd
from tests.unit.cli.fakes import a_config
from tests.unit.engine.fakes import BLOCK, Bench, MemoryRegion
from tests.unit.handover.fake_luo import FakeLuo, FakeStore

SIZES = (3 * BLOCK, 0, 5000)


class Old:
    """An instance in the old kernel: three files with bytes, metadata on disk, an engine."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.paths = Paths(str(directory))
        self.config = a_config(kind="memfd", boot_id="of the old kernel")
        self.config.save(self.paths.state_dir)
        Path(self.paths.metadata).mkdir()
        state = new_state(region_bytes=64 << 20, block_bytes=BLOCK, now_ns=1)
        files = DirectoryFiles(self.paths.metadata)
        journal = metadata.Store.create(files, UUID(self.config.uuid_hex), state)
        self.engine = Engine(state, journal, MemoryRegion(), Bench().engine.kernel)
        self.files: dict[int, int] = {}
        for number, size in enumerate(SIZES):
            ino = self.engine.make(cmd.Make(ROOT_INO, b"ram%d" % number, stat.S_IFREG | 0o600, 0, 0))
            if size:
                trio.run(self.engine.memory.resize, ino, size)
            self.files[int(ino)] = fd = os.memfd_create(f"ram{number}")
            os.ftruncate(fd, size)
            os.pwrite(fd, bytes([number + 1]) * min(size, 100), 0)

    def preservation(self, kernel: FakeLuo, store: FakeStore) -> Preservation:
        return Preservation(self.config, self.paths, store, kernel=kernel)  # type: ignore[arg-type]

    def preserve(self, kernel: FakeLuo, store: FakeStore) -> Preservation:
        preservation = self.preservation(kernel, store)
        trio.run(preservation.preserve, self.engine, self.files)
        return preservation


@pytest.fixture
def old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Old:
    monkeypatch.setattr(luo_preserve, "holder_pid", lambda _: 1)
    return Old(tmp_path / "old")


@pytest.fixture
def new_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Paths:
    """The state directory in the new kernel; a private tmpfs there would need root."""

    def create(store: FakeStore, size_bytes: int, numa_node: int | None) -> None:
        store.store(memfd.MOUNT_NAME, 2)

    monkeypatch.setattr(luo_retrieve.memfd, "create", create)
    (tmp_path / "new").mkdir()
    return Paths(str(tmp_path / "new"))


def retrieve(kernel: FakeLuo, store: FakeStore, paths: Paths, name: str = "guests") -> None:
    Retrieval(paths.state_dir, name, store.received(), store, kernel).run()  # type: ignore[arg-type]


def state_at(paths: Paths, config: InstanceConfig) -> State:
    return metadata.read_only_view(DirectoryFiles(paths.metadata), UUID(config.uuid_hex)).state


def assert_all_there(old: Old, store: FakeStore, paths: Paths) -> None:
    config = InstanceConfig.load(paths.state_dir)
    assert replace(config, boot_id="") == replace(old.config, boot_id="")
    assert config.boot_id != old.config.boot_id, "its memory is of this boot now"
    state = state_at(paths, config)
    assert not state.frozen
    assert state.root.directory is not None
    assert {bytes(name) for name, _ in state.root.directory.items()} == {b"ram0", b"ram1", b"ram2"}
    for ino, fd in old.files.items():
        copy = store.fds[f"region-ino-{ino:x}"][0]
        assert os.pread(copy, 1 << 20, 0) == os.pread(fd, 1 << 20, 0)


def test_everything_comes_through(old: Old, store: FakeStore, new_paths: Paths) -> None:
    kernel, after = FakeLuo(), FakeStore()
    preservation = old.preserve(kernel, store)
    assert preservation.is_preserved and fdnames.LIVEUPDATE in store.fds
    assert list(kernel.outgoing) == ["guestmemfs-guests"]
    kernel.kexec()
    retrieve(kernel, after, new_paths)
    assert_all_there(old, after, new_paths)
    assert kernel.calls[-1] == "finish"
    assert memfd.MOUNT_NAME in after.fds


def test_an_instance_that_was_frozen_before_stays_frozen(
    old: Old, store: FakeStore, new_paths: Paths
) -> None:
    kernel = FakeLuo()
    trio.run(old.engine.freeze)
    old.preserve(kernel, store)
    kernel.kexec()
    retrieve(kernel, FakeStore(), new_paths)
    assert state_at(new_paths, old.config).frozen


@pytest.mark.parametrize("fail_at", range(1, 7))
def test_preserving_that_fails_leaves_no_session_and_a_thawed_instance(
    old: Old, store: FakeStore, fail_at: int
) -> None:
    kernel = FakeLuo(fail_at)
    preservation = old.preservation(kernel, store)
    with pytest.raises(OSError, match="as the test wants"):
        trio.run(preservation.preserve, old.engine, old.files)
    assert len(kernel.calls) == fail_at
    assert not preservation.is_preserved and not store.fds
    assert not old.engine.state.frozen


def test_abort_closes_every_copy_of_the_session_and_thaws(old: Old, store: FakeStore) -> None:
    preservation = old.preserve(FakeLuo(), store)
    assert old.engine.state.frozen
    with pytest.raises(InstanceBusyError):
        preservation.require_thawable()
    fds = preservation.handover_fds()[fdnames.LIVEUPDATE]
    trio.run(preservation.abort, old.engine)
    preservation.require_thawable()
    assert not store.fds and not old.engine.state.frozen
    with pytest.raises(OSError):
        os.fstat(fds[0])
    with pytest.raises(UsageError):
        trio.run(preservation.abort, old.engine)


def test_what_cannot_be_preserved_is_refused_before_anything_is_frozen(
    old: Old, store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    preservation = old.preserve(FakeLuo(), store)
    with pytest.raises(InstanceBusyError):  # twice
        trio.run(preservation.preserve, old.engine, old.files)
    trio.run(preservation.abort, old.engine)
    monkeypatch.setattr(luo_preserve, "holder_pid", lambda _: None)  # systemd keeps the descriptors
    with pytest.raises(UnsupportedError, match="systemd"):
        old.preserve(FakeLuo(), store)
    old.config = replace(old.config, kind="tmpfs")
    with pytest.raises(UnsupportedError, match="tmpfs"):
        old.preserve(FakeLuo(), store)
    assert not old.engine.state.frozen


def test_without_a_session_nothing_is_made(store: FakeStore, new_paths: Paths) -> None:
    with pytest.raises(UnknownTargetError):
        retrieve(FakeLuo(), store, new_paths)
    assert not store.fds and os.listdir(new_paths.state_dir) == []


@pytest.mark.parametrize("fail_at", range(1, 8))
def test_retrieving_that_fails_anywhere_goes_on_from_what_the_store_has(
    old: Old, store: FakeStore, new_paths: Paths, fail_at: int
) -> None:
    kernel, after = FakeLuo(), FakeStore()
    old.preserve(kernel, store)
    kernel.kexec()
    kernel.fail_at = fail_at
    with pytest.raises((OSError, GuestmemfsError)):
        retrieve(kernel, after, new_paths)
    assert len(kernel.calls) == fail_at and not kernel.finished
    assert not os.path.exists(new_paths.config) or kernel.calls[-1] == "finish"
    if kernel.retrieved:
        assert fdnames.RETRIEVING in after.fds, "a session that was retrieved must never be closed"
    kernel.fail_at = None
    retrieve(kernel, after, new_paths)
    assert_all_there(old, after, new_paths)
    assert kernel.calls.count("finish") == (2 if fail_at == 7 else 1)


def test_dying_after_finish_and_before_ready_loses_nothing(
    old: Old, store: FakeStore, new_paths: Paths
) -> None:
    kernel, after = FakeLuo(), FakeStore()
    old.preserve(kernel, store)
    kernel.kexec()
    retrieve(kernel, after, new_paths)
    retrieve(kernel, after, new_paths)  # the session has no file any more
    assert_all_there(old, after, new_paths)


@pytest.mark.parametrize("change", ["name", "generation", "size", "missing", "bytes"])
def test_a_session_that_is_not_what_it_should_be_is_not_finished(
    old: Old, store: FakeStore, new_paths: Paths, change: str
) -> None:
    kernel, after = FakeLuo(), FakeStore()
    old.preserve(kernel, store)
    kernel.kexec()
    tokens = kernel.incoming["guestmemfs-guests"]
    raw = os.pread(tokens[luo.MANIFEST_TOKEN], 1 << 20, 0)
    manifest, victim = luo.decode(raw), next(iter(old.files))
    match change:
        case "name":
            raw = luo.encode(replace(manifest, name="others"))
        case "generation":
            raw = luo.encode(replace(manifest, generation=manifest.generation + 1))
        case "missing":
            fewer = {ino: size for ino, size in manifest.file_sizes.items() if ino != victim}
            raw = luo.encode(replace(manifest, file_sizes=fewer))
        case "size":
            os.ftruncate(tokens[victim], SIZES[0] + 4096)
        case "bytes":
            raw = raw[:100] + bytes([raw[100] ^ 1]) + raw[101:]
    os.ftruncate(tokens[luo.MANIFEST_TOKEN], 0)
    os.pwrite(tokens[luo.MANIFEST_TOKEN], raw, 0)
    with pytest.raises(MetadataError):
        retrieve(kernel, after, new_paths)
    assert not kernel.finished and fdnames.RETRIEVING in after.fds
    assert not os.path.exists(new_paths.config)


def test_another_instances_state_directory_is_left_alone(
    old: Old, store: FakeStore, new_paths: Paths
) -> None:
    kernel = FakeLuo()
    old.preserve(kernel, store)
    kernel.kexec()
    a_config(uuid_hex="f" * 32).save(new_paths.state_dir)
    with pytest.raises(ForeignMetadataError):
        retrieve(kernel, FakeStore(), new_paths)
    assert InstanceConfig.load(new_paths.state_dir).uuid_hex == "f" * 32
    assert not kernel.finished


# -- the manifest ------------------------------------------------------------------------------------------

MANIFEST = Manifest("guests", "ab" * 16, "boot", 3, True, b"{}", {"journal-1": b"\x00\xff"}, {2: 4096, 7: 0})


def test_a_manifest_survives_encoding_and_what_follows_it() -> None:
    assert luo.decode(luo.encode(MANIFEST) + bytes(4096)) == MANIFEST


def test_every_damage_to_a_manifest_is_noticed() -> None:
    raw = luo.encode(MANIFEST)
    for at in range(len(raw)):
        with pytest.raises(MetadataError):
            luo.decode(raw[:at] + bytes([raw[at] ^ 0x10]) + raw[at + 1 :])
        with pytest.raises(CorruptMetadataError):
            luo.decode(raw[:at])


def test_a_manifest_of_another_version_is_refused_as_such() -> None:
    raw = luo.encode(MANIFEST)
    with pytest.raises(UnknownFormatError):
        luo.decode(raw[:8] + (2).to_bytes(4, "little") + raw[12:])


def test_session_names_fit_and_differ() -> None:
    names = ["guests", "x" * 52, "x" * 53, "x" * 62 + "y", "x" * 63]
    sessions = [luo.session_name(name) for name in names]
    assert sessions[0] == "guestmemfs-guests"
    assert len(set(sessions)) == len(names) and all(len(name) <= 63 for name in sessions)


def test_numbers_of_inodes_never_are_the_manifests_token() -> None:
    assert Ino(luo.MANIFEST_TOKEN) < ROOT_INO
