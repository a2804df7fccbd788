"""The end of a file inside its last block: zero when the file grows, whole when it is cut."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from guestmemfs_fuse.linux import collapse, memory
from guestmemfs_fuse.region import tail

BLOCK = 2 << 20
PAGE = 4096


@pytest.fixture
def fd() -> Iterator[int]:
    """A shmem file of two blocks, all bytes of which were stored."""
    made = os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR, 0o600)
    os.posix_fallocate(made, 0, 2 * BLOCK)
    os.pwrite(made, b"x" * (2 * BLOCK), 0)
    yield made
    os.close(made)


def grow(fd: int, old: int, new: int) -> None:
    """As the region does, with bytes behind the old end: here they are there from the start."""
    os.ftruncate(fd, new)
    tail.clear(fd, old, new, BLOCK)


@pytest.mark.parametrize(
    "old,new,zeros",
    [
        (100, 200, (100, 200)),
        (PAGE, 2 * BLOCK, (PAGE, BLOCK)),
        (BLOCK - 1, 2 * BLOCK, (BLOCK - 1, BLOCK)),
        (BLOCK, 2 * BLOCK, (BLOCK, BLOCK)),
        (0, 2 * BLOCK, (0, 0)),
        (BLOCK + 5, BLOCK + 10, (BLOCK + 5, BLOCK + 10)),
    ],
)
def test_the_rest_of_the_old_last_block_reads_as_zero(
    fd: int, old: int, new: int, zeros: tuple[int, int]
) -> None:
    grow(fd, old, new)
    start, end = zeros
    expected = bytearray(b"x" * new)
    expected[start:end] = bytes(end - start)
    assert os.pread(fd, new, 0) == expected


def test_regression_a_poisoned_page_behind_the_end_kills_nobody_and_the_rest_reads_as_zero(
    fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cleared by storing through a mapping, it was SIGBUS for the daemon."""
    pwrite = os.pwrite

    def poisoned(file: int, data: bytes, offset: int) -> int:
        if offset // PAGE == 2:
            raise OSError(errno.EIO, "poisoned")
        return pwrite(file, data[: max(1, 2 * PAGE - offset)] if offset < 2 * PAGE else data, offset)

    monkeypatch.setattr(os, "pwrite", poisoned)
    grow(fd, PAGE + 5, BLOCK)
    expected = bytearray(BLOCK)
    expected[: PAGE + 5] = b"x" * (PAGE + 5)
    expected[2 * PAGE : 3 * PAGE] = b"x" * PAGE
    assert os.pread(fd, BLOCK, 0) == expected


def test_holes_behind_the_old_end_stay_holes(fd: int) -> None:
    memory.fallocate(fd, memory.FALLOC_FL_PUNCH_HOLE | memory.FALLOC_FL_KEEP_SIZE, PAGE, BLOCK - PAGE)
    grow(fd, PAGE, 2 * BLOCK)
    assert os.lseek(fd, PAGE, os.SEEK_DATA) == BLOCK


@pytest.mark.parametrize("size", [1, PAGE, BLOCK - 1, BLOCK + 1, BLOCK + PAGE, 2 * BLOCK - PAGE])
def test_a_cut_block_gets_its_memory_back_and_keeps_its_bytes(fd: int, size: int) -> None:
    os.ftruncate(fd, size)
    tail.mend(fd, size, BLOCK)
    assert os.fstat(fd).st_blocks * 512 == -(-size // BLOCK) * BLOCK
    assert os.fstat(fd).st_size == size
    assert os.pread(fd, size, 0) == b"x" * size
    os.ftruncate(fd, 2 * BLOCK)
    assert os.pread(fd, 2 * BLOCK, 0)[size : -(-size // BLOCK) * BLOCK].strip(b"\0") == b""


@pytest.mark.parametrize("size", [0, BLOCK])
def test_a_cut_at_a_block_changes_nothing(fd: int, size: int) -> None:
    os.ftruncate(fd, size)
    tail.mend(fd, size, BLOCK)
    assert os.fstat(fd).st_blocks * 512 == size


@pytest.mark.parametrize("busy,waits_s", [(2, 0.003), (20, 0.015)])
def test_a_block_is_collapsed_once_somebody_lets_go_of_its_page(
    fd: int, monkeypatch: pytest.MonkeyPatch, busy: int, waits_s: float
) -> None:
    advise, slept, answers = memory.Mapping.advise, list[float](), [errno.EAGAIN] * busy

    def advised(mapping: memory.Mapping, advice: int, *part: int) -> None:
        if advice == memory.MADV_COLLAPSE and answers:
            raise OSError(answers.pop(), "")
        advise(mapping, advice, *part)

    monkeypatch.setattr(memory.Mapping, "advise", advised)
    monkeypatch.setattr(collapse.Patience.__init__, "__defaults__", (collapse.PATIENCE_S, slept.append))
    os.ftruncate(fd, BLOCK + PAGE)
    tail.mend(fd, BLOCK + PAGE, BLOCK)
    assert sum(slept) == pytest.approx(waits_s)
    assert os.fstat(fd).st_blocks * 512 == 2 * BLOCK
