"""QEMU, unmodified, gets its guest's memory from a hugetlb region through the launcher: it boots and counts.

The region is a real hugetlbfs; the FUSE mount is played by a tmpfs and the daemon by a table (tests/zoo).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guest.rig import BootFiles, Guest, wait_until
from tests.zoo import rig
from tests.zoo.rig import PAGE_BYTES, FakeMount

SIZE_MIB = 128
PAGES = SIZE_MIB * (1 << 20) // PAGE_BYTES
LET_GO_S = 20.0
SCATTERED = ((40, 24), (0, 8), (70, 32))


@pytest.fixture
def region(private_dir: Path) -> Iterator[FakeMount]:
    with rig.fake_mount(private_dir, 102) as fake:
        yield fake


class RedirectedGuest(Guest):
    """A guest whose QEMU is started by the launcher. is_plain: with -mem-path only, no memory backend."""

    def redirect(self, region: FakeMount, options: tuple[str, ...] = (), *, is_plain: bool = False) -> None:
        self._region = region
        self._options = ("--verbose", *options)
        self._is_plain = is_plain

    def command(self, *, is_shared: bool = True) -> list[str]:
        command = super().command(is_shared=is_shared)
        if self._is_plain:
            for option in ("-object", "-machine"):
                at = command.index(option)
                del command[at : at + 2]
            command += ["-machine", "pc,mem-merge=off", "-mem-path", str(self.memory_path)]
        return self._region.command(self._options, *command)


@dataclass(frozen=True, slots=True)
class Mapping:
    """One mapping of the region file in /proc/PID/smaps."""

    start: int
    end: int
    permissions: str
    offset: int
    page_kib: int


def mappings(pid: int, path: Path) -> list[Mapping]:
    text = Path(f"/proc/{pid}/smaps").read_text()
    head = rf"^([0-9a-f]+)-([0-9a-f]+) (\S+) ([0-9a-f]+) \S+ \d+ +{re.escape(str(path))}$"
    pattern = head + r"(.*?)^KernelPageSize: +(\d+) kB"
    return [
        Mapping(int(found[1], 16), int(found[2], 16), found[3], int(found[4], 16), int(found[6]))
        for found in re.finditer(pattern, text, re.M | re.S)
    ]


@pytest.mark.parametrize(
    ("is_plain", "is_shared"),
    [(True, True), (False, True), (False, False)],
    ids=["mem-path", "backend-shared", "backend-private"],
)
@pytest.mark.parametrize("runs", [((8, PAGES),), SCATTERED], ids=["contiguous", "scattered"])
def test_qemu_boots_on_huge_pages_and_is_let_go(
    region: FakeMount,
    boot: BootFiles,
    private_dir: Path,
    runs: tuple[tuple[int, int], ...],
    is_plain: bool,
    is_shared: bool,
) -> None:
    file = region.file("ram", *runs)
    guest = RedirectedGuest(boot, private_dir, file, SIZE_MIB)
    guest.redirect(region, is_plain=is_plain)
    with guest:
        guest.start(is_shared=is_shared)
        found = mappings(guest.pid, region.region_path)
        assert [each.offset // PAGE_BYTES for each in found] == [first for first, _ in runs]
        assert [(each.end - each.start) // PAGE_BYTES for each in found] == [count for _, count in runs]
        assert {each.page_kib for each in found} == {2048}
        assert {each.permissions for each in found} == {"rw-s"}
        assert wait_until(lambda: "TracerPid:\t0\n" in status(guest.pid), LET_GO_S), status(guest.pid)
        guest.wait_progress()
        assert guest.complaints() == []
        assert guest.pattern_now() == guest.pattern_at_boot()
        said = guest.qemu_log.read_text()
        assert said.count("guestmemfs run: ") == 2, said


def status(pid: int) -> str:
    return Path(f"/proc/{pid}/status").read_text()


def test_two_backends_with_slow_preallocation_are_both_redirected(
    region: FakeMount, boot: BootFiles, private_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = region.file("first", (0, 32)), region.file("second", (40, 32))
    guest = RedirectedGuest(boot, private_dir, first, SIZE_MIB)
    guest.redirect(region, ("--until", "2"), is_plain=True)
    command = guest.command()
    at = command.index("-mem-path")
    command[at:] = numa_of_two(first, second)
    monkeypatch.setattr(guest, "command", lambda *, is_shared=True: command)
    with guest:
        guest.start()
        assert len(mappings(guest.pid, region.region_path)) == 2
        assert wait_until(lambda: "TracerPid:\t0\n" in status(guest.pid), LET_GO_S)
        guest.wait_progress()


def numa_of_two(first: Path, second: Path) -> list[str]:
    arguments = []
    for index, path in enumerate((first, second)):
        backend = f"memory-backend-file,id=m{index},size=64M,mem-path={path},share=on,prealloc=on"
        arguments += ["-object", backend, "-numa", f"node,memdev=m{index}"]
    return arguments
