"""Which directories belong to a run that was killed, and what becomes of huge pages it had added."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from guestmemfs_fuse.bench import cleanup, pool
from guestmemfs_fuse.core.errors import OutOfMemoryError
from guestmemfs_fuse.linux import hugepages


class FakePools:
    """A pool of 2M pages with somebody else's pages in it; `limit` is what the kernel finds."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, total: int, limit: int = 1 << 20) -> None:
        self.total, self.used, self.limit = total, total, limit
        monkeypatch.setattr(hugepages, "read_pools", self.read)
        monkeypatch.setattr(hugepages, "set_pool", self.set)

    def read(self) -> list[hugepages.Pool]:
        return [hugepages.Pool(pool.HUGE_PAGE_BYTES, None, self.total, self.total - self.used, 0, 0, 0)]

    def set(self, page_bytes: int, pages: int) -> int:
        self.total = min(pages, self.limit)
        return self.total


def new_run(parent: Path, name: str) -> Path:
    directory = parent / f"{cleanup.PREFIX}{name}"
    directory.mkdir(mode=0o700)
    return directory


def test_the_directory_of_a_living_run_is_not_abandoned_and_that_of_a_dead_one_is(tmp_path: Path) -> None:
    directory = new_run(tmp_path, "one")
    assert list(cleanup.abandoned(tmp_path)) == []  # a run that has just begun
    with cleanup.claimed(directory):
        assert list(cleanup.abandoned(tmp_path)) == []
    assert list(cleanup.abandoned(tmp_path)) == [directory]
    cleanup.sweep(directory)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_others_may_write_to_and_a_link_are_left_alone(tmp_path: Path) -> None:
    target = new_run(tmp_path, "target")
    with cleanup.claimed(target):
        pass
    inside = tmp_path / "elsewhere"
    inside.mkdir()
    (inside / f"{cleanup.PREFIX}link").symlink_to(target)
    assert list(cleanup.abandoned(inside)) == []
    target.chmod(0o777)
    assert list(cleanup.abandoned(tmp_path)) == []


def test_a_larger_pool_is_given_back_and_leaves_no_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakePools(monkeypatch, 5)
    with pool.larger(8, tmp_path):
        assert fake.total == 13
        fake.total += 2  # somebody else's
    assert fake.total == 7
    pool.give_back(tmp_path)
    assert fake.total == 7
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_run_added_to_the_pool_is_given_back_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakePools(monkeypatch, 5)
    killed, alive = new_run(tmp_path, "killed"), new_run(tmp_path, "alive")
    with pool.larger(8, alive):
        shutil.copytree(alive, killed, dirs_exist_ok=True)
    fake.total += 8  # as if it had not been given back
    cleanup.sweep(killed)
    assert (fake.total, killed.exists()) == (5, False)
    cleanup.sweep(killed)
    assert fake.total == 5


def test_pages_that_were_found_are_given_back_when_they_are_too_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakePools(monkeypatch, 5, limit=10)
    with pytest.raises(OutOfMemoryError, match="5 of 8"), pool.larger(8, tmp_path):
        pass
    assert fake.total == 5
