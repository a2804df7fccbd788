"""Huge pages as far as can be: what the kernel answers when it cannot."""

from __future__ import annotations

import errno
import os

import pytest

from guestmemfs_fuse.linux import hwpoison, memory
from guestmemfs_fuse.region.huge_policy import HUGE_BYTES, HugePolicy


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
        policy.allocate(fd, 0, HUGE_BYTES, was_empty=False, stop=lambda: False)
        assert policy.small_blocks == 1
    finally:
        os.close(fd)
