"""Who maps and has open which file, from the text of /proc."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from guestmemfs_fuse.linux import mountinfo, users

PAGE = mmap.PAGESIZE
MAPS = b"""\
55d000000000-55d000002000 r--p 00000000 fe:00 1234                       /usr/bin/qemu
7f0000000000-7f0000400000 rw-s 00200000 00:3e 42                         /mnt/a file (deleted)
7f0000400000-7f0000401000 rw-s 00000000 00:13e 43                        /mnt/b
7f0000500000-7f0000501000 rw-p 00000000 00:00 0 
7f0000600000-7f0000800000 r--s 00000000 00:3e 42                         /mnt/a 00:13e 9
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
"""


def test_only_mappings_of_the_wanted_superblock() -> None:
    found = users.parse_maps(MAPS, [(0, 0x3E)])
    assert [(v.ino, v.offset_bytes, v.end - v.start) for v in found] == [
        (42, 2 << 20, 4 << 20),
        (42, 0, 2 << 20),
    ]
    assert found[0].file_end_bytes == 6 << 20


def test_big_minor_numbers_have_more_digits() -> None:
    assert users.dev_field((0, 0x13E)) == b" 00:13e "
    assert [v.ino for v in users.parse_maps(MAPS, [(0, 0x13E)])] == [43]


def test_several_superblocks_at_once() -> None:
    found = users.parse_maps(MAPS, [(0, 0x3E), (0, 0x13E)])
    assert [(v.dev, v.ino) for v in found] == [((0, 0x3E), 42), ((0, 0x13E), 43), ((0, 0x3E), 42)]


def test_no_superblock_no_mapping() -> None:
    assert users.parse_maps(MAPS, []) == []
    assert users.parse_maps(b"", [(0, 0x3E)]) == []


def test_fdinfo_counts_on_the_given_mounts_only() -> None:
    raw = b"pos:\t0\nflags:\t02100002\nmnt_id:\t29\nino:\t42\n"
    assert users.parse_fdinfo(raw, frozenset([b"29"])) == 42
    assert users.parse_fdinfo(raw, frozenset([b"2", b"9"])) is None
    assert users.parse_fdinfo(b"", frozenset([b"29"])) is None


@pytest.fixture
def shared_memory() -> Iterator[tuple[int, users.Dev, int]]:
    """A memfd of eight pages: its descriptor, device and inode number."""
    fd = os.memfd_create("users")
    os.ftruncate(fd, 8 * PAGE)
    stat = os.fstat(fd)
    yield fd, (os.major(stat.st_dev), os.minor(stat.st_dev)), stat.st_ino
    os.close(fd)


def test_own_mapping_is_found_and_gone_after_unmapping(shared_memory: tuple[int, users.Dev, int]) -> None:
    fd, dev, ino = shared_memory
    with mmap.mmap(fd, 2 * PAGE), mmap.mmap(fd, 3 * PAGE):
        found = users.mapped_by([dev])[ino]
        assert [(u.pid, u.bytes) for u in found] == [(os.getpid(), 5 * PAGE)]
        assert found[0].comm == Path("/proc/self/comm").read_text().strip()
    assert ino not in users.mapped_by([dev])


def test_mapping_beyond_counts_only_bytes_behind_the_offset(
    shared_memory: tuple[int, users.Dev, int],
) -> None:
    fd, dev, ino = shared_memory
    with mmap.mmap(fd, 4 * PAGE, offset=2 * PAGE):
        assert [u.bytes for u in users.mapped_beyond([dev], ino, 0)] == [4 * PAGE]
        assert [u.bytes for u in users.mapped_beyond([dev], ino, 3 * PAGE)] == [3 * PAGE]
        assert [u.bytes for u in users.mapped_beyond([dev], ino, 6 * PAGE - 1)] == [1]
        assert users.mapped_beyond([dev], ino, 6 * PAGE) == []
        assert users.mapped_beyond([dev], ino + 1, 0) == []


def test_open_descriptors_of_all_processes_count(tmp_path: Path) -> None:
    path = tmp_path / "open"
    path.touch()
    stat = path.stat()
    dev = (os.major(stat.st_dev), os.minor(stat.st_dev))
    code = "import sys; print('ready', flush=True); sys.stdin.read()"
    assert stat.st_ino not in users.open_counts([dev])
    with path.open() as first, path.open("r+"):
        child = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=[first.fileno()],
        )
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == b"ready\n"
            assert users.open_counts([dev])[stat.st_ino] == 3
            opened = {each.pid: each for each in users.opened_by([dev])}
            assert opened[child.pid].count >= 1
            assert opened[os.getpid()].count >= 2
            assert opened[child.pid].comm.startswith("python")
            assert users.open_counts([(dev[0], dev[1] + 1)]).get(stat.st_ino) is None
        finally:
            child.communicate()
    assert stat.st_ino not in users.open_counts([dev])


FIRST_THREAD_ENDS = """
import ctypes, mmap, sys, threading
SYS_EXIT = 60
mapping = mmap.mmap(int(sys.argv[1]), 0)
threading.Thread(target=sys.stdin.read).start()
ctypes.CDLL(None).syscall(SYS_EXIT, 0)
"""


@contextmanager
def process_without_first_thread(fd: int) -> Iterator[int]:
    """The pid of a process whose other thread still has the file open and all of it mapped."""
    child = subprocess.Popen(
        [sys.executable, "-c", FIRST_THREAD_ENDS, str(fd)], stdin=subprocess.PIPE, pass_fds=[fd]
    )
    try:
        deadline = time.monotonic() + 30
        while Path(f"/proc/{child.pid}/stat").read_text().split()[2] != "Z":
            assert time.monotonic() < deadline
            time.sleep(0.005)
        yield child.pid
    finally:
        child.communicate()


def test_a_process_whose_first_thread_has_ended_still_maps(
    shared_memory: tuple[int, users.Dev, int],
) -> None:
    fd, dev, ino = shared_memory
    with process_without_first_thread(fd) as pid:
        assert [(u.pid, u.bytes) for u in users.mapped_by([dev])[ino]] == [(pid, 8 * PAGE)]
    assert ino not in users.mapped_by([dev])


def test_a_process_whose_first_thread_has_ended_still_has_files_open(tmp_path: Path) -> None:
    (tmp_path / "open").write_bytes(bytes(PAGE))
    with (tmp_path / "open").open("r+") as file:
        stat = os.fstat(file.fileno())
        dev = (os.major(stat.st_dev), os.minor(stat.st_dev))
        with process_without_first_thread(file.fileno()) as pid:
            opened = {each.pid: each.count for each in users.opened_by([dev])}
            assert opened[pid] >= 2  # the descriptor and the copy that mmap has made of it
            assert users.open_counts([dev])[stat.st_ino] == 3
    assert stat.st_ino not in users.open_counts([dev])


def test_device_numbers_that_some_mount_has_are_claimed() -> None:
    (proc,) = [mount.dev for mount in mountinfo.read_mounts() if mount.mountpoint == "/proc"]
    nobodys = (0, 0xFFFFF)  # MINORMASK: the last anonymous device number there can be
    assert users.unclaimed([proc, nobodys]) == [nobodys]
    assert users.unclaimed([]) == []


def test_mounts_of_other_namespaces_claim_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = (0, 0xFFFFE)
    own = mountinfo.read_mounts()
    mounts = {os.getpid(): own, 7: [replace(own[0], major=theirs[0], minor=theirs[1])]}
    links = {f"/proc/{os.getpid()}/ns/mnt": "mnt:[1]", "/proc/7/ns/mnt": "mnt:[2]"}
    links |= {f"/proc/{pid}/root": "/" for pid in mounts}
    monkeypatch.setattr(users, "pids", lambda: sorted(mounts))
    monkeypatch.setattr(mountinfo, "read_mounts", mounts.__getitem__)
    monkeypatch.setattr(os, "readlink", links.__getitem__)
    assert users.unclaimed([theirs, (0, 0xFFFFD)]) == [(0, 0xFFFFD)]
