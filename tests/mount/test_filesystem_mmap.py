"""mmap goes to the region's own huge pages, and no data passes through the daemon."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.mount.filesystem import BLOCK, MIB, READ_WRITE, SHARED, Mounted, mapped, mounted
from tests.mount.posix.user import Died


@pytest.fixture(scope="module", params=["tmpfs", "memfd"])
def fs(request: pytest.FixtureRequest) -> Iterator[Mounted]:
    with mounted(f"mmap-{request.param}", "256M", "--region", request.param) as made:
        yield made


@pytest.mark.parametrize("size_mib", [2, 6, 64])
def test_a_mapping_is_of_huge_pages_only(fs: Mounted, size_mib: int) -> None:
    size = size_mib * MIB
    with fs.tree(f"ram:{size}") as t:
        mapping = mapped(t, "ram", size)
        t.touch(mapping, size)
        figures = t.smaps(mapping)
        assert figures["ShmemPmdMapped"] == figures["Rss"] == size


def test_a_mapping_of_a_file_made_by_fallocate_is_of_huge_pages_only(fs: Mounted) -> None:
    with fs.tree("ram") as t:
        t.fallocate(t.opened("ram"), 0, 0, 8 * MIB)
        mapping = mapped(t, "ram", 8 * MIB)
        t.touch(mapping, 8 * MIB)
        assert t.smaps(mapping)["ShmemPmdMapped"] == 8 * MIB


def test_a_file_that_grew_in_small_steps_is_of_huge_pages_only(fs: Mounted) -> None:
    with fs.tree("ram") as t:
        for size in range(0, 8 * MIB + 1, 512 * 1024):
            t.truncate("ram", size)
        mapping = mapped(t, "ram", 8 * MIB)
        t.touch(mapping, 8 * MIB)
        assert t.smaps(mapping)["ShmemPmdMapped"] == 8 * MIB


def test_a_file_without_a_name_is_of_huge_pages_too(fs: Mounted) -> None:
    with fs.tree() as t:
        fd = t.opened(".", 0o20200002)  # O_TMPFILE | O_RDWR
        t.ftruncate(fd, 4 * MIB)
        mapping = t.mmap(fd, 4 * MIB, READ_WRITE, SHARED)
        t.touch(mapping, 4 * MIB)
        assert t.smaps(mapping)["ShmemPmdMapped"] == 4 * MIB


def test_no_data_passes_through_the_daemon(fs: Mounted) -> None:
    with fs.tree(f"ram:{64 * MIB}") as t:
        mapping = mapped(t, "ram", 64 * MIB)
        before = fs.relay()
        t.touch(mapping, 64 * MIB)
        t.poke(mapping, 50 * MIB, b"guest" * 1000)
        assert t.peek(mapping, 50 * MIB, 10) == b"guestguest"
        after = fs.relay()
    assert (
        (after["data_reads"], after["data_writes"]) == (before["data_reads"], before["data_writes"]) == (0, 0)
    )
    assert after["bytes_from_kernel"] - before["bytes_from_kernel"] < 4096
    assert after["bytes_to_kernel"] - before["bytes_to_kernel"] < 4096


def test_status_and_map_show_the_mapping(fs: Mounted) -> None:
    with fs.tree(f"ram:{8 * MIB}") as t:
        mapping = mapped(t, "ram", 8 * MIB)
        t.touch(mapping, 8 * MIB)
        said = fs.instance.cli.json("map", fs.path(t, "ram"))
        assert said["huge_fraction"] == 1.0
        assert said["allocated_bytes"] == said["size_bytes"] == 8 * MIB
        assert [user["pid"] for user in said["mapped_by"]] == [t.pid()]


def test_a_mapping_feels_nothing_of_a_restart(fs: Mounted) -> None:
    with fs.tree(f"ram:{8 * MIB}") as t:
        mapping = mapped(t, "ram", 8 * MIB)
        t.poke(mapping, 0, b"before")
        fs.run("restart", fs.instance.name)
        assert t.peek(mapping, 0, 6) == b"before"
        again = mapped(t, "ram", 8 * MIB)
        t.poke(again, 6 * MIB, b"after")
        assert t.peek(mapping, 6 * MIB, 5) == b"after"
        assert t.smaps(again)["ShmemPmdMapped"] >= BLOCK


def test_regression_a_cut_inside_a_huge_page_split_it_for_good(fs: Mounted) -> None:
    with fs.tree(f"ram:{4 * MIB}") as t:
        mapping = mapped(t, "ram", 4 * MIB)
        t.touch(mapping, 4 * MIB)
        t.munmap(mapping)
        t.truncate("ram", 3 * MIB)
        assert t.stat("ram").st_blocks * 512 == 4 * MIB
        t.truncate("ram", 4 * MIB)
        mapping = mapped(t, "ram", 4 * MIB)
        assert t.peek(mapping, 3 * MIB - 4096, 1) == b"\1"
        assert t.peek(mapping, 3 * MIB, MIB) == bytes(MIB)
        t.touch(mapping, 4 * MIB)
        assert t.smaps(mapping)["ShmemPmdMapped"] == 4 * MIB


def test_regression_a_cut_in_a_block_nobody_used_keeps_its_memory_whole(fs: Mounted) -> None:
    with fs.tree(f"ram:{4 * MIB}") as t:
        t.truncate("ram", 2 * MIB + 1)
        assert t.stat("ram").st_blocks * 512 == 4 * MIB
        first, second = mapped(t, "ram", 4 * MIB), mapped(t, "ram", 4 * MIB)
        t.poke(first, 2 * MIB, b"x")
        assert t.peek(second, 2 * MIB, 1) == t.peek(first, 2 * MIB, 1) == b"x"
        assert t.smaps(first)["ShmemPmdMapped"] == BLOCK


def test_a_store_behind_the_end_ends_its_user_and_no_other_test(fs: Mounted) -> None:
    with fs.tree("ram:4096") as t:
        mapping = mapped(t, "ram", 4 * MIB)
        with pytest.raises(Died, match=r"root: poke\(.*SIGBUS"):
            t.poke(mapping, 3 * MIB, b"x")


@pytest.mark.parametrize(
    "old,new", [(1000, 8192), (BLOCK - 1, BLOCK), (BLOCK + 5, 3 * BLOCK), (1, 2 * BLOCK)]
)
def test_regression_bytes_stored_behind_the_end_showed_when_the_file_grew(
    fs: Mounted, old: int, new: int
) -> None:
    with fs.tree(f"ram:{old}") as t:
        last = -(-old // BLOCK) * BLOCK
        mapping = mapped(t, "ram", last)
        t.poke(mapping, 0, b"x" * last)
        t.truncate("ram", new)
        again = mapped(t, "ram", new)
        assert t.peek(again, 0, old) == b"x" * old
        assert t.peek(again, old, new - old) == bytes(new - old)


def test_regression_seek_before_the_start_was_an_io_error(fs: Mounted) -> None:
    with fs.tree("ram:100") as t:
        fd = t.opened("ram")
        assert t.tries.lseek(fd, -1, 3) == t.tries.lseek(fd, -1, 4) == "ENXIO"
