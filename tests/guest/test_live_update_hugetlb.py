"""The demo's scenario on guaranteed 2M pages: save, unmount, mount, restore through `guestmemfs run`."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from guestmemfs_fuse.linux import mountinfo
from guestmemfs_fuse.vm.errors import NotPreservableError
from guestmemfs_fuse.vm.restore import restore
from tests.cli import COMMAND, Guestmemfs, Instance
from tests.guest.rig import BootFiles, Guest
from tests.zoo.rig import PAGE_BYTES, huge_pages

GUEST_MIB = 96
REGION_MIB = 128


class RunGuest(Guest):
    """Its QEMU is started by `guestmemfs run`."""

    def command(self, *, is_shared: bool = True) -> list[str]:
        return [str(COMMAND), "run", "--", *super().command(is_shared=is_shared)]


@pytest.fixture
def hugetlb(guestmemfs: Guestmemfs, monkeypatch: pytest.MonkeyPatch) -> Iterator[Instance]:
    monkeypatch.setenv("GUESTMEMFS_RUN_DIR", str(guestmemfs.run_dir))
    with huge_pages(REGION_MIB * (1 << 20) // PAGE_BYTES):
        yield guestmemfs.mount("huge", "--region", "hugetlb", size=f"{REGION_MIB}M")
        guestmemfs.destroy_all()  # before the pages are taken from the pool


def scattered(instance: Instance) -> Path:
    """The guest's RAM file, in more than one piece."""
    filler = [instance.mountpoint / f"filler{number}" for number in range(4)]
    for path in filler:
        path.touch()
        os.truncate(path, REGION_MIB // 4 << 20)
    for number in (0, 2, 3):
        filler[number].unlink()
    memory = instance.mountpoint / "ram"
    memory.touch()
    os.truncate(memory, GUEST_MIB << 20)
    return memory


def test_a_guest_on_2m_pages_is_live_updated(hugetlb: Instance, boot: BootFiles, private_dir: Path) -> None:
    memory = scattered(hugetlb)
    extents = hugetlb.cli.json("map", memory)["extents"]
    assert len(extents) > 1
    with RunGuest(boot, private_dir, memory, GUEST_MIB) as guest:
        guest.start()
        old_pid, state = guest.pid, private_dir / "state"
        (row,) = [each for each in hugetlb.status()["files"] if each["path"] == "/ram"]
        assert [each["pid"] for each in row["mapped_by"]] == [old_pid]
        report = guest.save(state)
        assert report.saved.state_bytes < 4 << 20, "the RAM must not be in the state file"
        stood_at = guest.count()
        hugetlb.umount()
        assert mountinfo.find_mountpoint(str(hugetlb.mountpoint)) is None
        hugetlb.remount()
        restored = asyncio.run(restore(state))  # by `guestmemfs run`, as it was started
        guest.adopt(restored.pid, restored.child)
        guest.wait_count(stood_at + 3, 60)
        counts = guest.counts()
        assert counts == list(range(1, len(counts) + 1))
        assert guest.complaints() == []
        assert guest.pattern_now() == guest.pattern_at_boot()
        assert guest.pid != old_pid
        assert hugetlb.cli.json("map", memory)["extents"] == extents
        smaps = Path(f"/proc/{guest.pid}/smaps").read_text()
        sizes = re.findall(r"/region$.*?^KernelPageSize: +(\d+) kB", smaps, re.M | re.S)
        assert len(sizes) >= len(extents) and set(sizes) == {"2048"}


def test_a_qemu_that_does_not_map_its_file_is_not_taken_for_one_that_does(
    hugetlb: Instance, boot: BootFiles, private_dir: Path
) -> None:
    """It maps the region, but where the file was before it was replaced."""
    memory = scattered(hugetlb)
    with RunGuest(boot, private_dir, memory, GUEST_MIB) as guest:
        guest.start()
        memory.rename(hugetlb.mountpoint / "aside")
        (hugetlb.mountpoint / "filler1").unlink()
        memory.touch()
        os.truncate(memory, 2 << 20)
        with pytest.raises(NotPreservableError, match=r"is not what .*/ram names now"):
            guest.save(private_dir / "state")
        guest.wait_progress(2)
