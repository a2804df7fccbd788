"""Huge pages as far as can be: what the kernel answers when it cannot."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from guestmemfs_fuse.core.state import Inode
from guestmemfs_fuse.core.types import Ino
from guestmemfs_fuse.linux import hwpoison, memory
from guestmemfs_fuse.region import backing_files, huge_policy
from guestmemfs_fuse.region.huge_policy import HUGE_BYTES, HugeCounters, HugePolicy, read_counters
from guestmemfs_fuse.region.tmpfs import TmpfsRegion


@pytest.mark.parametrize("number", [hwpoison.EHWPOISON, errno.EFAULT, errno.ENOMEM])
def test_regression_a_block_that_cannot_be_looked_at_is_a_small_one(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EHWPOISON of MADV_POPULATE_WRITE (madvise(2)) made truncate(2) of a file with a lost page fail."""

    def refuse(*_: object) -> None:
        raise OSError(number, "refused")

    fd = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR, 0o600)
    try:
        os.ftruncate(fd, HUGE_BYTES)
        monkeypatch.setattr(memory.Mapping, "advise", refuse)
        policy = HugePolicy("prefer")
        policy.see_to(fd, 0, HUGE_BYTES, None, lambda: False)
        assert policy.small_blocks == 1
    finally:
        os.close(fd)


def test_regression_counters_are_found_behind_the_first_page_of_vmstat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One read(2) gives a page at most: with more counters in front no huge page was ever proven."""
    vmstat = tmp_path / "vmstat"
    vmstat.write_text(
        "nr_free_pages 1\nthp_file_alloc 70\nthp_file_fallback 3\nthp_file_fallback_charge 14\nthp_split 9\n"
    )
    read = os.read
    for page_bytes in range(1, 100):
        monkeypatch.setattr(os, "read", lambda fd, length, page=page_bytes: read(fd, min(length, page)))
        assert read_counters(str(vmstat)) == HugeCounters(given=70, fallen_back=17)


def test_counters_that_a_kernel_does_not_have_are_zero(tmp_path: Path) -> None:
    (tmp_path / "vmstat").write_text("nr_free_pages 1\n")
    assert read_counters(str(tmp_path / "vmstat")) == HugeCounters(given=0, fallen_back=0)


def test_stretches_in_a_row_are_each_proven_by_one_look_at_the_counters(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks = [HugeCounters(102, 5), HugeCounters(104, 5), HugeCounters(105, 6)]
    monkeypatch.setattr(huge_policy, "read_counters", lambda: looks.pop(0))
    monkeypatch.setattr(HugePolicy, "_again", lambda self, fd, blocks, stop: blocks[-1:])
    fd = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR, 0o600)
    try:
        policy, length = HugePolicy("prefer"), 2 * HUGE_BYTES
        seen: HugeCounters | None = HugeCounters(100, 5)
        for start in (0, length):
            seen = policy.see_to(fd, start, start + length, seen, lambda: False)
        assert seen == HugeCounters(104, 5)
        assert policy.small_blocks == 0
        assert policy.see_to(fd, 2 * length, 3 * length, seen, lambda: False) is None
        assert policy.small_blocks == 1
        assert not looks
    finally:
        os.close(fd)


def test_after_a_stretch_with_small_pages_the_counters_are_read_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else the stretch behind it would count as used already, and be touched block by block."""
    policy = HugePolicy("prefer")
    asked: list[HugeCounters | None] = []

    def see_to(
        _fd: int, start: int, end: int, before: HugeCounters | None, _stop: object
    ) -> HugeCounters | None:
        asked.append(before)
        return None if start == 0 else HugeCounters(3, 3)

    looks = [HugeCounters(1, 1), HugeCounters(2, 2)]
    monkeypatch.setattr(huge_policy, "read_counters", lambda: looks.pop(0))
    monkeypatch.setattr(policy, "see_to", see_to)
    monkeypatch.setattr(backing_files, "_STRETCH_BYTES", HUGE_BYTES)
    monkeypatch.setattr(TmpfsRegion, "_require_room", lambda self, needed_bytes: None)
    region = TmpfsRegion(str(tmp_path), 1 << 30, HUGE_BYTES)
    region.huge_policy = policy
    region.create(Ino(7))
    filled = region.fill(Inode(Ino(7), 0o100600, 0, 0, 1, 0, 0, 0), 0, 3 * HUGE_BYTES, lambda: False)
    region.close()
    assert asked == [HugeCounters(1, 1), HugeCounters(2, 2), HugeCounters(3, 3)]
    assert filled.ranges == tuple((at, at + HUGE_BYTES) for at in range(0, 3 * HUGE_BYTES, HUGE_BYTES))
