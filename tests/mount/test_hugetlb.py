"""hugetlb instances and the host's pool of huge pages: taken by --reserve, given back whatever happens.

The pool is the host's. Tests that compare its size hold the lock under which tests change it.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from guestmemfs_fuse.linux import mountinfo
from tests.cli import Guestmemfs
from tests.guest.rig import wait_until
from tests.require import require
from tests.zoo.rig import PAGE_BYTES, POOL, huge_pages, pool_lock

PAGES = 16
SIZE = f"{PAGES * 2}M"
NO_MEMORY, DAEMON = 7, 8


def pool_pages() -> int:
    return int(POOL.read_text())


def available_pages() -> int:
    """Pages of the pool that nobody has or was promised."""
    free, promised = (int((POOL.parent / f"{each}_hugepages").read_text()) for each in ("free", "resv"))
    return max(0, free - promised)


@pytest.fixture
def quiet_pool() -> Iterator[int]:
    """The size of the pool, which nobody else changes until the end; it must be that again by then."""
    require(POOL.exists(), "2M huge pages")
    with pool_lock():
        before = pool_pages()
        yield before
        after = pool_pages()
        POOL.write_text(str(before))
        assert after == before, f"the test left {after - before} pages in the pool"


def mount_args(guestmemfs: Guestmemfs, *options: str, size: str = SIZE) -> list[str]:
    mountpoint = guestmemfs.directory / "mnt-huge"
    mountpoint.mkdir(exist_ok=True)
    return ["mount", str(mountpoint), "--name", "huge", "--region", "hugetlb", "--size", size, *options]


def record(guestmemfs: Guestmemfs) -> dict[str, int | None]:
    """What instance.json says of the pages that are ours."""
    text = (guestmemfs.run_dir / "huge" / "instance.json").read_text()
    found: dict[str, int | None] = json.loads(text)["options"]["reserve"]
    return found


def test_without_pages_mount_names_the_setting_and_makes_nothing(guestmemfs: Guestmemfs) -> None:
    done = guestmemfs.run(*mount_args(guestmemfs, size="1T"), check=False)
    assert done.returncode == NO_MEMORY
    assert "the pool of 2M pages lacks " in done.stderr and " of 524288" in done.stderr
    assert "hint: mount with --reserve, or: sysctl vm.nr_hugepages=" in done.stderr
    assert not (guestmemfs.run_dir / "huge").exists()


def test_reserving_more_than_the_host_has_is_refused_and_the_pool_stays(
    guestmemfs: Guestmemfs, quiet_pool: int
) -> None:
    done = guestmemfs.run(*mount_args(guestmemfs, "--reserve", size="1T"), check=False)
    assert done.returncode == NO_MEMORY
    assert "huge pages, the host has" in done.stderr
    assert pool_pages() == quiet_pool
    assert not (guestmemfs.run_dir / "huge").exists()


def test_reserve_adds_what_is_missing_and_destroy_takes_exactly_that_out(
    guestmemfs: Guestmemfs, quiet_pool: int
) -> None:
    missing = max(0, PAGES - available_pages())
    guestmemfs.run(*mount_args(guestmemfs, "--reserve"))
    added = pool_pages() - quiet_pool
    assert added == missing
    assert record(guestmemfs) == {"pages": added, "floor": None}
    status = guestmemfs.json("status", "huge")["region"]
    hugetlb = status["hugetlb"]
    assert hugetlb["page_bytes"] == PAGE_BYTES
    assert hugetlb["pool"]["total"] >= PAGES
    assert hugetlb["pool"]["reserved"] >= PAGES
    assert (hugetlb["fragmentation"], hugetlb["largest_run_bytes"]) == (0.0, PAGES * PAGE_BYTES)
    assert (hugetlb["quarantined_bytes"], status["free_bytes"]) == (0, PAGES * PAGE_BYTES)
    sysctl = Path("/proc/sys/vm/hugetlb_optimize_vmemmap")
    assert hugetlb["hvo"] == (bool(int(sysctl.read_text())) if sysctl.exists() else None)
    guestmemfs.run("umount", "huge")
    assert guestmemfs.json("status", "huge")["region"]["hugetlb"] == hugetlb
    assert pool_pages() == quiet_pool + added
    guestmemfs.run("destroy", "huge", "--yes")
    assert pool_pages() == quiet_pool


def test_a_mount_that_fails_gives_the_pages_back_at_once(guestmemfs: Guestmemfs, quiet_pool: int) -> None:
    """The daemon fails after it has made its region."""
    broken = guestmemfs.tampered(
        "import sys\n"
        "if 'guestmemfs_fuse.daemon' in sys.orig_argv:\n"
        "    from guestmemfs_fuse.fuse import connection\n"
        "    connection.connect = lambda *_: sys.exit('broken on purpose')\n"
    )
    done = broken.run(*mount_args(guestmemfs, "--reserve"), check=False)
    assert done.returncode == DAEMON
    assert "broken on purpose" in done.stderr
    assert pool_pages() == quiet_pool
    assert not (guestmemfs.run_dir / "huge").exists()


def test_destroy_gives_back_what_a_killed_mount_had_taken(guestmemfs: Guestmemfs, quiet_pool: int) -> None:
    """Killed at the moment the pool has grown, or while it grows; that it has is not written down by then."""
    held = guestmemfs.tampered(
        "import sys, time\n"
        "if 'mount' in sys.orig_argv:\n"
        "    from guestmemfs_fuse.linux import hugepages\n"
        "    set_pool = hugepages.set_pool\n"
        "    hugepages.set_pool = lambda *args: (set_pool(*args), time.sleep(1000))\n"
    )
    pages = available_pages() + PAGES  # more than there are, so that it has to grow
    child = held.start(*mount_args(guestmemfs, "--reserve", size=f"{pages * 2}M"))
    assert wait_until(lambda: pool_pages() > quiet_pool or child.poll() is not None, 30)
    assert child.poll() is None, child.communicate()
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    guestmemfs.run("destroy", "huge", "--yes")
    assert pool_pages() == quiet_pool


def test_a_region_that_somebody_unmounted_is_made_anew_from_the_pages_it_had(
    guestmemfs: Guestmemfs, quiet_pool: int
) -> None:
    guestmemfs.run(*mount_args(guestmemfs, "--reserve"))
    added = pool_pages() - quiet_pool
    guestmemfs.run("umount", "huge")
    region = str(guestmemfs.run_dir / "huge" / "region")
    os.system(f"umount {region}")
    assert mountinfo.find_mountpoint(region) is None
    guestmemfs.run(*mount_args(guestmemfs))  # --reserve is remembered
    assert pool_pages() == quiet_pool + added
    assert record(guestmemfs) == {"pages": added, "floor": None}
    guestmemfs.destroy_all()
    assert pool_pages() == quiet_pool


def test_pages_that_are_there_already_are_not_added(guestmemfs: Guestmemfs) -> None:
    with huge_pages(PAGES):
        guestmemfs.run(*mount_args(guestmemfs, "--reserve"))
        try:
            # Somebody else may have taken some of them meanwhile; then exactly those were added.
            assert record(guestmemfs)["pages"] in range(PAGES)
        finally:
            guestmemfs.destroy_all()
