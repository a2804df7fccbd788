"""Collapsing is tried again while somebody else has a page, and given up where that does not end."""

from __future__ import annotations

import errno
from typing import cast

import pytest

from guestmemfs_fuse.linux import memory
from guestmemfs_fuse.linux.collapse import Patience, collapse


class Block:
    """A mapping that answers with these errors before it is collapsed."""

    def __init__(self, *errors: int) -> None:
        self._errors = list(errors)
        self.tries = 0

    def advise(self, advice: int, offset_bytes: int, length_bytes: int) -> None:
        assert (advice, offset_bytes, length_bytes) == (memory.MADV_COLLAPSE, 4096, 8192)
        self.tries += 1
        if self._errors:
            raise OSError(self._errors.pop(0), "")


def collapsed(block: Block, patience: Patience) -> None:
    collapse(cast(memory.Mapping, block), 4096, 8192, patience)


def test_a_page_that_somebody_has_for_a_moment_is_waited_for() -> None:
    slept: list[float] = []
    block = Block(errno.EAGAIN, errno.EAGAIN)
    collapsed(block, Patience(1, slept.append))
    assert block.tries == 3 and slept == [0.001, 0.002]


def test_any_other_refusal_is_raised_at_once() -> None:
    for refused in (errno.EINVAL, errno.ENOMEM, errno.EBUSY):
        block = Block(refused)
        with pytest.raises(OSError) as caught:
            collapsed(block, Patience(1, lambda _: pytest.fail("waited")))
        assert (caught.value.errno, block.tries) == (refused, 1)


def test_many_blocks_that_never_come_free_cost_no_more_than_the_patience() -> None:
    slept: list[float] = []
    patience = Patience(0.5, slept.append)
    for _ in range(100):
        with pytest.raises(BlockingIOError):
            collapsed(Block(*[errno.EAGAIN] * 20), patience)
    assert 0.4 < sum(slept) <= 0.5
