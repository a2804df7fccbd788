"""Who uses a passthrough file: what the kernel shows of its mappings and descriptors."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from guestmemfs_fuse.linux import mount, mountinfo, probe_fuse, users
from tests.mount.tiny_fuse import INO, TinyFuse
from tests.require import require

BLOCK = 2 << 20
SIZE = 4 * BLOCK

MAPPER = """
import os, sys
from guestmemfs_fuse.linux.memory import Mapping  # mmap.mmap would keep a descriptor
fd = os.open(sys.argv[1], os.O_RDWR)
mapping = Mapping(fd, int(sys.argv[2]), offset_bytes=int(sys.argv[3]))
os.close(fd)
print("mapped", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def served(private_dir: Path) -> Iterator[TinyFuse]:
    """A mounted passthrough file of four huge pages on a tmpfs of its own."""
    require(os.geteuid() == 0, "root")
    require(probe_fuse.passthrough().ok, "FUSE passthrough")
    mountpoint = private_dir / "a mount"
    mountpoint.mkdir()
    tmpfs = mount.new_filesystem("tmpfs", {"huge": "always", "size": "64M"})
    backing = os.open(".", os.O_TMPFILE | os.O_RDWR, 0o600, dir_fd=tmpfs)
    try:
        os.ftruncate(backing, SIZE)
        with TinyFuse(str(mountpoint), backing) as tiny:
            yield tiny
    finally:
        os.close(backing)
        os.close(tmpfs)


def device_of(served: TinyFuse) -> users.Dev:
    entry = mountinfo.find_mountpoint(str(Path(served.path).parent))
    assert entry is not None
    return entry.dev


def test_mapping_of_a_passthrough_file_is_found_by_the_mounts_device(served: TinyFuse) -> None:
    dev = device_of(served)
    assert users.mapped_by([dev]) == {}
    args = [sys.executable, "-c", MAPPER, served.path, str(2 * BLOCK), str(BLOCK)]
    child = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"mapped\n"
        comm = Path(f"/proc/{child.pid}/comm").read_text().strip()
        assert users.mapped_by([dev]) == {INO: [users.MappedBy(child.pid, comm, 2 * BLOCK)]}
        assert [u.bytes for u in users.mapped_beyond([dev], INO, 2 * BLOCK)] == [BLOCK]
        assert users.mapped_beyond([dev], INO, 3 * BLOCK) == []
        assert users.open_counts([dev]) == {}, "the descriptor was closed, only the mapping is left"
    finally:
        child.communicate()
    assert users.mapped_by([dev]) == {}


def test_open_descriptors_are_counted_by_inode(served: TinyFuse) -> None:
    dev = device_of(served)
    fd = os.open(served.path, os.O_RDWR)
    try:
        assert users.open_counts([dev]) == {INO: 1}
        copy = os.dup(fd)
        assert users.open_counts([dev]) == {INO: 2}
        os.close(copy)
    finally:
        os.close(fd)
    assert users.open_counts([dev]) == {}


@pytest.mark.parametrize("when", ["before", "after"])
def test_open_in_another_mount_namespace_is_counted(served: TinyFuse, when: str) -> None:
    opening = "os.open(sys.argv[1], os.O_RDONLY)"
    leaving = "assert not ctypes.CDLL(None).unshare(0x20000)"  # CLONE_NEWNS, linux/sched.h
    steps = [opening, leaving] if when == "before" else [leaving, opening]
    code = f"import ctypes, os, sys; {'; '.join(steps)}; print('open', flush=True); sys.stdin.read()"
    args = [sys.executable, "-c", code, served.path]
    child = subprocess.Popen(args, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"open\n"
        assert users.open_counts([device_of(served)]) == {INO: 1}
    finally:
        child.communicate()


def test_looking_asks_the_filesystem_nothing(served: TinyFuse) -> None:
    dev = device_of(served)
    fd = os.open(served.path, os.O_RDWR)
    with mmap.mmap(fd, SIZE):
        os.close(fd)
        before = list(served.requests)
        users.mapped_by([dev])
        users.open_counts([dev])
        # A RELEASE of our own close may still arrive; nothing else may.
        assert set(served.requests[len(before) :]) <= {18}


def test_mapping_of_a_mount_that_was_taken_away_is_still_found(served: TinyFuse) -> None:
    dev = device_of(served)
    fd = os.open(served.path, os.O_RDWR)
    with mmap.mmap(fd, SIZE):
        os.close(fd)
        mountpoint = str(Path(served.path).parent)
        mount.umount(mountpoint, mount.MNT_DETACH)
        try:
            assert [u.pid for u in users.mapped_by([dev])[INO]] == [os.getpid()]
        finally:
            # The fixture unmounts once more.
            mount.mount("none", mountpoint, "tmpfs", 0, "size=4k")
