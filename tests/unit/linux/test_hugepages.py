"""Pools and settings, read from a tree made for the test."""

from __future__ import annotations

from pathlib import Path

import pytest

from guestmemfs_fuse.linux import hugepages


def add_pool(directory: Path, size_kb: int, **counts: int) -> None:
    pool = directory / f"hugepages-{size_kb}kB"
    pool.mkdir(parents=True)
    for name, count in counts.items():
        (pool / name).write_text(f"{count}\n")


@pytest.fixture
def sys(tmp_path: Path) -> Path:
    host = tmp_path / "kernel/mm/hugepages"
    rest = {"surplus_hugepages": 0, "nr_overcommit_hugepages": 3}
    add_pool(host, 1048576, nr_hugepages=1, free_hugepages=1, resv_hugepages=0, **rest)
    add_pool(host, 2048, nr_hugepages=10, free_hugepages=7, resv_hugepages=4, **rest)
    node = tmp_path / "devices/system/node/node1"
    add_pool(node / "hugepages", 2048, nr_hugepages=6, free_hugepages=6, surplus_hugepages=0)
    (node / "meminfo").write_text("Node 1 MemTotal:       2048 kB\nNode 1 MemFree:        1024 kB\n")
    (tmp_path / "devices/system/node/possible").touch()
    thp = tmp_path / "kernel/mm/transparent_hugepage"
    thp.mkdir()
    (thp / "enabled").write_text("always [madvise] never\n")
    (thp / "shmem_enabled").write_text("always within_size advise [never] deny force\n")
    return tmp_path


def test_pools_by_size(sys: Path) -> None:
    small, big = hugepages.read_pools(str(sys))
    assert (small.page_bytes, small.total, small.free, small.reserved) == (2 << 20, 10, 7, 4)
    assert small.available == 3
    assert (big.page_bytes, big.overcommit, big.node) == (1 << 30, 3, None)


def test_pools_by_node_have_no_reservations(sys: Path) -> None:
    (pool,) = hugepages.read_node_pools(str(sys))
    assert (pool.node, pool.total, pool.reserved, pool.available) == (1, 6, 0, 6)


def test_nodes_and_their_memory(sys: Path) -> None:
    assert hugepages.nodes(str(sys)) == [1]
    assert hugepages.node_memory_bytes(1, str(sys)) == (2 << 20, 1 << 20)


def test_host_without_hugetlb_or_numa_has_none(tmp_path: Path) -> None:
    assert hugepages.read_pools(str(tmp_path)) == []
    assert hugepages.read_node_pools(str(tmp_path)) == []
    assert hugepages.optimizes_vmemmap(str(tmp_path)) is None


def test_set_pool_writes_and_returns_what_there_is(sys: Path) -> None:
    assert hugepages.set_pool(2 << 20, 12, sys=str(sys)) == 12
    assert hugepages.set_pool(2 << 20, 5, node=1, sys=str(sys)) == 5
    assert hugepages.read_pools(str(sys))[0].total == 12
    with pytest.raises(FileNotFoundError):
        hugepages.set_pool(4 << 20, 1, sys=str(sys))


def test_settings_are_the_words_in_brackets(sys: Path) -> None:
    assert hugepages.thp_settings(str(sys)) == hugepages.ThpSettings("madvise", "never", None)


def test_hvo_state(tmp_path: Path) -> None:
    vm = tmp_path / "sys/vm"
    vm.mkdir(parents=True)
    (vm / "hugetlb_optimize_vmemmap").write_text("1\n")
    assert hugepages.optimizes_vmemmap(str(tmp_path)) is True
