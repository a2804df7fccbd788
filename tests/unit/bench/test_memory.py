"""The memory path's area: what it leaves alone on a host with little memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from guestmemfs_fuse.bench import memory
from guestmemfs_fuse.bench.area import Collector
from guestmemfs_fuse.bench.rig import Bench, Instance
from guestmemfs_fuse.bench.scale import GIB


class FakeBench(Bench):
    """Mounts nothing; remembers how large a pool of huge pages was asked for."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self.directory, self.run_dir = directory, directory / "run"
        self.pools: list[int] = []

    def instance(self, name: str, size_bytes: int) -> Instance:
        return Instance(self, name, self.directory / name)

    def guestmemfs(self, *arguments: object) -> str:
        return ""

    def tmpfs(self, name: str, options: str) -> Path:
        return self.directory / name

    def umount(self, path: Path) -> None:
        pass

    @contextlib.contextmanager
    def hugetlbfs(self, name: str, size_bytes: int) -> Iterator[Path]:
        self.pools.append(size_bytes)
        yield self.directory / name


@pytest.mark.parametrize(("available_bytes", "pools"), [(4 * GIB, [1 * GIB]), (3 * GIB, [])])
def test_regression_a_pool_that_leaves_no_room_for_the_files_is_not_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, available_bytes: int, pools: list[int]
) -> None:
    """A host with little memory had all of it taken for huge pages, for a moment, guests or not."""
    monkeypatch.setattr(memory, "fits", lambda size_bytes: size_bytes + GIB <= available_bytes)
    bench = FakeBench(tmp_path)
    out = Collector("memory", "Memory path", bench.say, 1.0)
    with memory._contenders(bench, 1 * GIB, out) as contenders:
        assert (memory.HUGETLB in [each.name for each in contenders]) is bool(pools)
    assert bench.pools == pools
    assert bool(out.area().left_out) is not bool(pools)
