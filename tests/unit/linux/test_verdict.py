"""From probes to region rows."""

from __future__ import annotations

import pytest

from guestmemfs_fuse.linux.probe import Probe
from guestmemfs_fuse.linux.verdict import RegionRow, judge

NAMES = (
    "privilege", "fuse-device", "fuse-passthrough", "tmpfs-huge", "tmpfs-noswap", "tmpfs-unlinked",
    "hugetlb-2M", "hugetlb-1G", "fsdax", "liveupdate", "ptrace",
)  # fmt: skip


def rows(*failed: str) -> dict[str, RegionRow]:
    probes = [Probe(n, n not in failed, f"{n} measured", f"fix {n}" if n in failed else None) for n in NAMES]
    return {row.kind: row for row in judge(probes)}


def test_everything_works_where_every_probe_does() -> None:
    found = rows()
    assert list(found) == ["tmpfs", "memfd", "hugetlb", "dax"]
    assert all(row.works and row.fix is None for row in found.values())
    mmaps = {kind: row.mmap for kind, row in found.items()}
    assert mmaps == {"tmpfs": "passthrough", "memfd": "passthrough", "hugetlb": "run", "dax": "passthrough"}


@pytest.mark.parametrize("name", ["privilege", "fuse-device"])
def test_nothing_works_without_the_basics(name: str) -> None:
    for row in rows(name).values():
        assert not row.works
        assert (row.reason, row.fix, row.mmap) == (f"{name}: {name} measured", f"fix {name}", None)


def test_without_passthrough_the_launcher_serves_and_the_fix_is_named() -> None:
    found = rows("fuse-passthrough")
    assert all(row.works and row.mmap == "run" for row in found.values())
    assert found["tmpfs"].fix == "fix fuse-passthrough"
    assert found["hugetlb"].fix is None


def test_without_passthrough_and_ptrace_nothing_can_be_mapped() -> None:
    for row in rows("fuse-passthrough", "ptrace").values():
        assert not row.works
        assert row.reason.startswith("no way to mmap")


def test_hugetlb_needs_ptrace_but_the_others_do_not() -> None:
    found = rows("ptrace")
    assert [kind for kind, row in found.items() if not row.works] == ["hugetlb"]
    assert found["hugetlb"].fix == "fix ptrace"


def test_one_huge_page_size_is_enough() -> None:
    assert rows("hugetlb-2M")["hugetlb"].reason.startswith("1G pages")
    assert rows("hugetlb-1G")["hugetlb"].reason.startswith("2M pages")
    assert rows("hugetlb-2M", "hugetlb-1G")["hugetlb"].fix == "fix hugetlb-2M"


def test_memfd_without_live_update_works_but_not_across_kexec() -> None:
    row = rows("liveupdate")["memfd"]
    assert row.works
    assert "not kexec" in row.reason
    assert row.fix == "fix liveupdate"


def test_swap_is_worth_a_word() -> None:
    row = rows("tmpfs-noswap")["tmpfs"]
    assert row.works
    assert row.fix == "fix tmpfs-noswap"


def test_kind_fails_with_its_own_ability() -> None:
    for name, kinds in {
        "tmpfs-huge": {"tmpfs", "memfd"},
        "tmpfs-unlinked": {"memfd"},
        "fsdax": {"dax"},
    }.items():
        assert {kind for kind, row in rows(name).items() if not row.works} == kinds


def test_probe_that_is_missing_counts_as_failed() -> None:
    assert [row.works for row in judge([])] == [False] * 4
