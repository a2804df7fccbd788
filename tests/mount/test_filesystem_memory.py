"""Memory: taken when a file grows or not at all, given back with the last user, counted truly."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.mount.filesystem import (
    BLOCK,
    KEEP,
    MIB,
    PUNCH,
    READ_WRITE,
    SHARED,
    Mounted,
    mapped,
    mounted,
    soon,
)
from tests.mount.posix.tree import Tree

SIZE = 64 * MIB


@pytest.fixture(scope="module", params=["tmpfs", "memfd"])
def fs(request: pytest.FixtureRequest) -> Iterator[Mounted]:
    with mounted(f"memory-{request.param}", "64M", "--region", request.param) as made:
        yield made


def free_bytes(t: Tree) -> int:
    figures = t.statfs(".")
    return int(figures["f_bfree"] * figures["f_frsize"])


def allocated(t: Tree, name: str) -> int:
    return int(t.stat(name).st_blocks * 512)


# -- room -------------------------------------------------------------------------------------------


def test_figures_are_in_blocks_and_add_up(fs: Mounted) -> None:
    with fs.tree(f"a:{10 * MIB} b:1") as t:
        figures = t.statfs(".")
        assert figures["f_bsize"] == figures["f_frsize"] == BLOCK
        assert figures["f_blocks"] * BLOCK == SIZE
        assert figures["f_bfree"] == figures["f_bavail"] == (SIZE - 10 * MIB - BLOCK) // BLOCK
        assert t.stat("b").st_blksize == BLOCK


@pytest.mark.parametrize("how", ["truncate", "fallocate", "fallocate, keeping the size"])
def test_no_room_is_said_then_and_there_and_the_file_stays_as_it_was(fs: Mounted, how: str) -> None:
    with fs.tree(f"ram:{8 * MIB} other:{40 * MIB}") as t:
        mapping = mapped(t, "ram", 8 * MIB)
        t.poke(mapping, 5 * MIB, b"guest")
        before, room = t.snapshot(), free_bytes(t)
        fd = t.opened("ram")
        if how == "truncate":
            said = t.tries.ftruncate(fd, 32 * MIB)
        else:
            said = t.tries.fallocate(fd, KEEP if "keeping" in how else 0, 0, 32 * MIB)
        assert said == "ENOSPC"
        assert t.snapshot() == before
        assert free_bytes(t) == room
        assert t.peek(mapping, 5 * MIB, 5) == b"guest"


def test_the_last_block_can_be_had_and_not_one_more(fs: Mounted) -> None:
    with fs.tree("a b") as t:
        assert t.tries.truncate("a", SIZE) == "ok"
        assert free_bytes(t) == 0
        assert t.tries.truncate("b", 1) == "ENOSPC"
        assert t.stat("b").st_size == 0
        t.truncate("a", SIZE - BLOCK)
        assert t.tries.truncate("b", BLOCK) == "ok"


def test_a_full_region_still_takes_names_and_attributes(fs: Mounted) -> None:
    with fs.tree(f"a:{SIZE}") as t:
        assert t.tries.mkdir("d") == t.tries.mknod("f") == t.tries.symlink("a", "l") == "ok"
        assert t.tries.setxattr("f", "user.a", b"v") == t.tries.rename("f", "g") == "ok"


def test_room_of_a_removed_file_is_there_at_once(fs: Mounted) -> None:
    with fs.tree() as t:
        for number in range(20):
            fd = t.opened(f"f{number}", os.O_CREAT | os.O_RDWR)
            assert t.tries.ftruncate(fd, SIZE) == "ok", number
            t.close(fd)
            t.unlink(f"f{number}")


def test_memory_of_an_unlinked_file_stays_while_it_is_open_and_while_it_is_mapped(fs: Mounted) -> None:
    with fs.tree(f"ram:{32 * MIB} more") as t:
        fd = t.opened("ram")
        mapping = t.mmap(fd, 32 * MIB, READ_WRITE, SHARED)
        t.poke(mapping, 20 * MIB, b"guest")
        t.unlink("ram")
        assert t.tries.truncate("more", 48 * MIB) == "ENOSPC"
        t.close(fd)
        assert t.tries.truncate("more", 48 * MIB) == "ENOSPC"
        assert t.peek(mapping, 20 * MIB, 5) == b"guest"
        t.munmap(mapping)
        soon(lambda: t.tries.truncate("more", 48 * MIB) == "ok")


def test_memory_of_a_killed_process_comes_back(fs: Mounted) -> None:
    with fs.tree(f"ram:{32 * MIB}~666 more") as t:
        alices = t.alice.open("ram", os.O_RDWR)
        t.alice.mmap(alices, 32 * MIB, READ_WRITE, SHARED)
        t.unlink("ram")
        assert t.tries.truncate("more", 48 * MIB) == "ENOSPC"
        t.alice.forget_all()
        soon(lambda: t.tries.truncate("more", 48 * MIB) == "ok")


# -- cutting what is in use -------------------------------------------------------------------------


def test_cutting_what_somebody_maps_is_refused(fs: Mounted) -> None:
    with fs.tree(f"ram:{8 * MIB}~666") as t:
        alices = t.alice.open("ram", os.O_RDWR)
        mapping = t.alice.mmap(alices, 8 * MIB, READ_WRITE, SHARED)
        t.alice.poke(mapping, 7 * MIB, b"guest")
        before = t.snapshot()
        assert t.tries.truncate("ram", 4 * MIB) == "EBUSY"
        assert t.tries.opens("ram", os.O_RDWR | os.O_TRUNC) == "EBUSY"
        assert t.tries.ftruncate(t.opened("ram"), 0) == "EBUSY"
        assert t.snapshot() == before
        assert t.alice.peek(mapping, 7 * MIB, 5) == b"guest"
        t.alice.munmap(mapping)
        assert t.tries.truncate("ram", 4 * MIB) == "ok"


def test_cutting_behind_what_somebody_maps_is_fine(fs: Mounted) -> None:
    with fs.tree(f"ram:{8 * MIB}") as t:
        mapping = mapped(t, "ram", 4 * MIB)
        assert t.tries.truncate("ram", 4 * MIB) == "ok"
        assert t.tries.truncate("ram", 2 * MIB) == "EBUSY"
        t.poke(mapping, 3 * MIB, b"guest")


def test_growing_and_punching_what_somebody_maps_is_fine(fs: Mounted) -> None:
    with fs.tree(f"ram:{8 * MIB}") as t:
        mapping = mapped(t, "ram", 8 * MIB)
        t.touch(mapping, 8 * MIB)
        assert t.tries.truncate("ram", 16 * MIB) == "ok"
        assert t.tries.fallocate(t.opened("ram"), PUNCH, 2 * MIB, 2 * MIB) == "ok"
        assert t.peek(mapping, 2 * MIB, 1) == b"\0"
        assert t.peek(mapping, 4 * MIB, 1) == b"\1"


# -- punching ---------------------------------------------------------------------------------------


def test_blocks_are_counted_truly_after_a_punch_and_after_a_refill(fs: Mounted) -> None:
    with fs.tree(f"ram:{16 * MIB}") as t:
        mapping = mapped(t, "ram", 16 * MIB)
        t.touch(mapping, 16 * MIB)
        assert allocated(t, "ram") == 16 * MIB
        room = free_bytes(t)
        t.fallocate(t.opened("ram"), PUNCH, 4 * MIB, 8 * MIB)
        assert allocated(t, "ram") == 8 * MIB
        assert free_bytes(t) == room + 8 * MIB
        t.touch(mapping + 4 * MIB, BLOCK)
        assert allocated(t, "ram") == 10 * MIB
        t.touch(mapping, 16 * MIB)
        assert allocated(t, "ram") == 16 * MIB
        assert free_bytes(t) == room


def test_blocks_are_counted_truly_after_a_punch_through_a_mapping(fs: Mounted) -> None:
    with fs.tree(f"ram:{16 * MIB}") as t:
        mapping = mapped(t, "ram", 16 * MIB)
        t.touch(mapping, 16 * MIB)
        for round_of_it in range(3):
            assert allocated(t, "ram") == 16 * MIB, round_of_it
            t.madvise(mapping, 4 * MIB, 8 * MIB, 9)  # MADV_REMOVE: the daemon is not asked, it is told
            soon(lambda: allocated(t, "ram") == 8 * MIB)
            t.touch(mapping, 16 * MIB)
            soon(lambda: allocated(t, "ram") == 16 * MIB)


def test_a_punch_through_a_mapping_is_seen_after_a_restart_too(fs: Mounted) -> None:
    with fs.tree(f"ram:{4 * MIB}") as t:
        mapping = mapped(t, "ram", 4 * MIB)
        t.touch(mapping, 4 * MIB)
        fs.run("restart", fs.instance.name)
        assert allocated(t, "ram") == 4 * MIB
        t.madvise(mapping, 0, BLOCK, 9)
        soon(lambda: allocated(t, "ram") == BLOCK)


def test_seek_finds_the_hole(fs: Mounted) -> None:
    with fs.tree(f"ram:{8 * MIB}") as t:
        mapping = mapped(t, "ram", 8 * MIB)
        t.touch(mapping, 8 * MIB)
        fd = t.opened("ram")
        t.fallocate(fd, PUNCH, 2 * MIB, 2 * MIB)
        assert t.lseek(fd, 0, os.SEEK_HOLE) == 2 * MIB
        assert t.lseek(fd, 2 * MIB, os.SEEK_DATA) == 4 * MIB


# -- pins -------------------------------------------------------------------------------------------


def test_a_pinned_file_is_kept_and_all_else_goes_on(fs: Mounted) -> None:
    with fs.tree(f"ram:{8 * MIB} other d/") as t:
        path = fs.path(t, "ram")
        fs.run("pin", path)
        fd = t.opened("ram")
        refused = {
            "unlink": t.tries.unlink("ram"),
            "rename over": t.tries.rename("other", "ram"),
            "shrink": t.tries.truncate("ram", 4 * MIB),
            "empty": t.tries.opens("ram", os.O_RDWR | os.O_TRUNC),
            "punch": t.tries.fallocate(fd, PUNCH, 0, BLOCK),
        }
        assert set(refused.values()) == {"EBUSY"}, refused
        allowed = {
            "grow": t.tries.ftruncate(fd, 10 * MIB),
            "allocate": t.tries.fallocate(fd, 0, 0, 12 * MIB),
            "chmod": t.tries.chmod("ram", 0o600),
            "link": t.tries.link("ram", "second"),
            "rename": t.tries.rename("ram", "d/ram"),
            "attribute": t.tries.setxattr("d/ram", "user.a", b"v"),
        }
        assert set(allowed.values()) == {"ok"}, allowed
        assert t.stat("d/ram").st_size == 12 * MIB
        fs.run("unpin", fs.path(t, "d/ram"))
        assert t.tries.truncate("d/ram", 4 * MIB) == t.tries.unlink("d/ram") == "ok"


# -- the serialised state ---------------------------------------------------------------------------

MODIFYING = (
    ("mkdir", "new"),
    ("mknod", "new"),
    ("opens", "new", os.O_CREAT | os.O_RDWR),
    ("opens", ".", os.O_TMPFILE | os.O_RDWR),
    ("opens", "ram", os.O_RDWR | os.O_TRUNC),
    ("symlink", "x", "new"),
    ("link", "ram", "new"),
    ("unlink", "other"),
    ("rmdir", "d"),
    ("rename", "other", "new"),
    ("rename", "other", "ram", 2),
    ("chmod", "ram", 0o600),
    ("chown", "ram", 1, 1),
    ("utimens", "ram", (1, 1)),
    ("truncate", "ram", 10 * MIB),
    ("truncate", "ram", MIB),
    ("setxattr", "ram", "user.b", b"v"),
    ("removexattr", "ram", "user.a"),
)


def test_a_frozen_instance_changes_nothing_and_reads_on(fs: Mounted) -> None:
    with fs.tree(f"ram:{8 * MIB} other d/") as t:
        t.setxattr("ram", "user.a", b"v")
        mapping = mapped(t, "ram", 8 * MIB)
        fd = t.opened("ram")
        before = t.snapshot()
        fs.run("freeze", fs.instance.name)
        try:
            said = {call: getattr(t.tries, str(call[0]))(*call[1:]) for call in MODIFYING}
            said[("fallocate",)] = t.tries.fallocate(fd, 0, 0, 12 * MIB)
            said[("punch",)] = t.tries.fallocate(fd, PUNCH, 0, BLOCK)
            assert set(said.values()) == {"EBUSY"}, said
            assert t.snapshot() == before
            t.poke(mapping, MIB, b"guest")
            again = mapped(t, "ram", 8 * MIB)
            assert t.peek(again, MIB, 5) == b"guest"
            assert t.listdir() == ["d", "other", "ram"]
            fs.run("restart", fs.instance.name)
            assert t.tries.mkdir("new") == "EBUSY"
            assert fs.instance.status()["state"] == "frozen"
        finally:
            fs.run("thaw", fs.instance.name)
        assert t.tries.mkdir("new") == t.tries.truncate("ram", 10 * MIB) == "ok"
