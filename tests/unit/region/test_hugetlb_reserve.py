"""Pages that --reserve adds to a pool: what is written down when, and what is given back after a crash."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from guestmemfs_fuse.core.errors import ExitCode, OutOfMemoryError
from guestmemfs_fuse.linux import hugepages
from guestmemfs_fuse.linux.hugepages import Pool
from guestmemfs_fuse.metadata.instance_config import InstanceConfig
from guestmemfs_fuse.region import host_memory, hugetlb_pool, hugetlb_reserve
from guestmemfs_fuse.region.hugetlb_reserve import Reserve, give_back, recorded, take, with_record
from tests.unit.cli.fakes import MIB, a_config

PAGE = 2 * MIB
BOOT = a_config().boot_id


class Crash(BaseException):
    """The command is killed."""


@dataclass
class FakePool:
    """The host's pool; the kernel finds at most `most` pages; `reserved` are promised to others."""

    pages: int = 0
    free: int = 0
    reserved: int = 0
    surplus: int = 0
    most: int = 1000
    saved: list[InstanceConfig] = field(default_factory=list)
    crash_at: int | None = None
    steps: int = 0

    def step(self) -> None:
        if self.steps == self.crash_at:
            raise Crash
        self.steps += 1

    def save(self, config: InstanceConfig) -> None:
        self.step()
        self.saved.append(config)

    def set(self, page_bytes: int, pages: int, node: int | None = None) -> int:
        self.step()
        before = self.pages
        self.pages = min(pages, self.most)
        self.free += self.pages - before
        return self.pages + self.surplus

    def of(self, page_bytes: int, node: int | None) -> Pool:
        total = self.pages + self.surplus
        return Pool(page_bytes, node, total, self.free, self.reserved, self.surplus, 0)


@pytest.fixture
def pool(monkeypatch: pytest.MonkeyPatch, tmp_path: object) -> FakePool:
    fake = FakePool()
    monkeypatch.setattr(hugepages, "set_pool", fake.set)
    monkeypatch.setattr(hugetlb_pool, "pool_of", fake.of)
    monkeypatch.setattr(hugepages, "pool_path", lambda *_: __file__)
    return fake


def config(pages: int = 8, **changes: object) -> InstanceConfig:
    made = a_config(kind="hugetlb", size_bytes=pages * PAGE, **changes)
    return with_record(made, Reserve(0))


def test_only_what_the_pool_lacks_is_added_and_given_back(pool: FakePool) -> None:
    pool.pages, pool.free, pool.reserved = 10, 6, 3
    taken = take(config(8), pool.save)
    assert (pool.pages, recorded(taken)) == (15, Reserve(5))
    assert pool.saved[-1] == taken
    give_back(taken, BOOT, pool.save)
    assert (pool.pages, recorded(pool.saved[-1])) == (10, Reserve(0))


def test_a_pool_that_suffices_is_left_alone(pool: FakePool) -> None:
    pool.pages = pool.free = 8
    assert recorded(take(config(8), pool.save)) == Reserve(0)
    assert (pool.pages, pool.steps) == (8, 0)


def test_too_few_pages_are_given_back_at_once_and_the_error_names_the_boot_option(pool: FakePool) -> None:
    pool.pages, pool.free, pool.most = 2, 2, 5
    with pytest.raises(OutOfMemoryError, match="only 3 of 6 more 2M pages") as caught:
        take(config(8), pool.save)
    assert caught.value.exit_code is ExitCode.NO_MEMORY
    assert "hugepagesz=2M hugepages=8" in (caught.value.hint or "")
    assert (pool.pages, recorded(pool.saved[-1])) == (2, Reserve(0))


def test_giving_back_twice_takes_nobody_elses_pages(pool: FakePool) -> None:
    pool.pages = 4
    taken = take(config(8), pool.save)
    again = give_back(taken, BOOT, pool.save)
    assert give_back(again, BOOT, pool.save) == again
    assert pool.pages == 4


def test_pages_of_an_earlier_boot_are_not_taken_from_this_one(pool: FakePool) -> None:
    pool.pages = 20
    old = with_record(config(boot_id="long ago"), Reserve(8))
    assert recorded(give_back(old, BOOT, pool.save)) == Reserve(0)
    assert pool.pages == 20


def test_surplus_pages_are_not_made_permanent(pool: FakePool) -> None:
    pool.pages, pool.surplus = 4, 3
    taken = take(config(8), pool.save)
    give_back(taken, BOOT, pool.save)
    assert pool.pages == 4


def _survivor(pool: FakePool, fallback: InstanceConfig) -> InstanceConfig:
    """What the next command finds on disk."""
    return pool.saved[-1] if pool.saved else fallback


@pytest.mark.parametrize("steps", range(4))
def test_a_crash_while_taking_leaves_nothing_that_destroy_does_not_give_back(
    pool: FakePool, steps: int
) -> None:
    pool.pages = pool.free = 3
    pool.crash_at = steps
    _until_crash(lambda: take(config(8), pool.save))
    pool.crash_at = None
    give_back(_survivor(pool, config(8)), BOOT, pool.save)
    assert pool.pages == 3


@pytest.mark.parametrize("steps", range(4))
def test_a_crash_while_giving_back_can_be_repeated(pool: FakePool, steps: int) -> None:
    pool.pages = pool.free = 3
    taken = take(config(8), pool.save)
    pool.crash_at = pool.steps + steps
    _until_crash(lambda: give_back(taken, BOOT, pool.save))
    pool.crash_at = None
    give_back(_survivor(pool, taken), BOOT, pool.save)
    assert pool.pages == 3


def _until_crash(action: Callable[[], object]) -> None:
    try:
        action()
    except Crash:
        pass


@pytest.mark.parametrize("record", [None, 7, {"pages": -1}, {"pages": "9"}, {"pages": 9, "floor": "x"}])
def test_a_record_that_makes_no_sense_takes_nothing_from_the_pool(pool: FakePool, record: object) -> None:
    pool.pages = 9
    strange = a_config(kind="hugetlb", options={"reserve": record})
    give_back(strange, BOOT, pool.save)
    assert pool.pages == 9


def test_what_the_host_does_not_have_is_refused_before_the_pool_is_touched(
    pool: FakePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_memory, "available_bytes", lambda node: 10 * MIB)
    with pytest.raises(OutOfMemoryError, match="add 16 MiB of huge pages, the host has 10 MiB"):
        hugetlb_reserve.require_possible(config(8))
    assert pool.steps == 0
