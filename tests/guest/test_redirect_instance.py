"""`guestmemfs run` with real instances: the daemon is asked, and what plain programs map is preserved."""

from __future__ import annotations

import mmap
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli import COMMAND, Guestmemfs, Instance
from tests.guest.rig import BootFiles, Guest, wait_until
from tests.require import require
from tests.zoo.rig import PAGE_BYTES, Build, huge_pages

pytest_plugins = ("tests.zoo.fixtures",)

HUGETLB_MIB = 192
NOBODY = 65534
SIZE_MIB = 128


def written(path: Path) -> bool:
    """Whether the mapper's writes are in the file, read through a mapping as read(2) is refused."""
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as view:
        return view[4:8] == b"!wr!"


@pytest.mark.parametrize("kind", ["tmpfs", "memfd"])
@pytest.mark.parametrize(
    ("options", "is_kept"), [((), True), (("--no-share",), False)], ids=["share", "no-share"]
)
def test_a_private_mapping_is_made_shared_unless_told_otherwise(
    guestmemfs: Guestmemfs, zoo: Build, kind: str, options: tuple[str, ...], is_kept: bool
) -> None:
    file = guestmemfs.mount("gm", "--region", kind).mountpoint / "ram"
    file.touch()
    os.truncate(file, 2 * PAGE_BYTES)
    done = guestmemfs.run("run", *options, "--", zoo("mapper"), "wp", file, 0, 2 * PAGE_BYTES)
    assert done.stderr == ""
    assert written(file) == is_kept


def test_without_the_registry_the_mapping_is_shared_all_the_same_and_a_line_says_what_is_missing(
    guestmemfs: Guestmemfs, zoo: Build, private_dir: Path
) -> None:
    file = guestmemfs.mount().mountpoint / "ram"
    file.touch()
    os.truncate(file, PAGE_BYTES)
    command = [str(COMMAND), "run", "--", str(zoo("mapper")), "wp", str(file), "0", str(PAGE_BYTES)]
    environment = {**os.environ, "GUESTMEMFS_RUN_DIR": str(private_dir / "elsewhere")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert "the daemon of gm cannot be asked (run as root" in done.stderr
    assert written(file)


def test_another_user_may_launch_too(guestmemfs: Guestmemfs, zoo: Build) -> None:
    file = guestmemfs.mount().mountpoint / "ram"
    file.touch()
    os.truncate(file, PAGE_BYTES)
    os.chown(file, NOBODY, NOBODY)
    require(shutil.which("setpriv"), "setpriv")
    as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    reachable = subprocess.run([*as_nobody, COMMAND, "--version"], capture_output=True).returncode == 0
    require(reachable, "a checkout that user 65534 can read")
    # by descriptor: this user may not enter the directories that tests are in
    with open(zoo("mapper"), "rb") as program, open(file, "r+b") as opened:
        fds = (program.fileno(), opened.fileno())
        paths = [f"/proc/self/fd/{fd}" for fd in fds]
        command = [*as_nobody, str(COMMAND), "run", "--", paths[0], "wp", paths[1], "0", str(PAGE_BYTES)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, pass_fds=fds)
    assert done.returncode == 0, done.stderr
    assert written(file)


def test_a_traced_script_may_start_the_instance_it_uses(
    guestmemfs: Guestmemfs, zoo: Build, private_dir: Path
) -> None:
    mountpoint = private_dir / "mnt-script"
    mountpoint.mkdir()
    file = mountpoint / "ram"
    script = (
        f"{COMMAND} mount {mountpoint} --name script --size 64M && truncate -s 2M {file} "
        f"&& {zoo('mapper')} wp {file} 0 {PAGE_BYTES}"
    )
    done = guestmemfs.run("run", "--", "sh", "-c", script)
    assert done.stderr == ""
    assert written(file)
    pid = int(guestmemfs.json("status", "script")["daemon_pid"])
    assert "TracerPid:\t0\n" in Path(f"/proc/{pid}/status").read_text()


# -- hugetlb -------------------------------------------------------------------------------------------


@pytest.fixture
def hugetlb(guestmemfs: Guestmemfs) -> Iterator[Instance]:
    """A 192 MiB instance of 2M pages, with room for one guest and a few small files."""
    with huge_pages(HUGETLB_MIB * (1 << 20) // PAGE_BYTES):
        yield guestmemfs.mount("huge", "--region", "hugetlb", size=f"{HUGETLB_MIB}M")
        guestmemfs.destroy_all()  # before the pages are taken from the pool


def new_file(path: Path, pages: int) -> Path:
    path.touch()
    os.truncate(path, pages * PAGE_BYTES)
    return path


def scattered_file(instance: Instance, pages: int) -> Path:
    """A file of at least two extents: it gets the holes that a full region's removed files leave."""
    filler = [
        new_file(instance.mountpoint / f"filler{number}", pages // 2)
        for number in range(HUGETLB_MIB * (1 << 20) // PAGE_BYTES // (pages // 2))
    ]
    for path in filler[::2]:
        path.unlink()
    return new_file(instance.mountpoint / "ram", pages)


def test_a_hugetlb_file_is_mapped_by_run_and_by_nothing_else(hugetlb: Instance, zoo: Build) -> None:
    file = scattered_file(hugetlb, 8)
    mapper = [zoo("mapper"), "w", file, 0, 8 * PAGE_BYTES]
    bare = subprocess.run([str(each) for each in mapper], capture_output=True, text=True)
    assert bare.stdout == "error ENODEV, 0 left\n"
    done = hugetlb.cli.run("run", "--", *mapper)
    assert (done.stdout.split()[:3], done.stderr) == (["mapped", "aligned", "2"], "")
    done = hugetlb.cli.run("run", "--", zoo("statter"), file)
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [["958458f6", str(PAGE_BYTES)]] * 2


def test_what_one_program_writes_the_next_one_maps(hugetlb: Instance, zoo: Build) -> None:
    file = scattered_file(hugetlb, 8)
    hugetlb.cli.run("run", "--", zoo("mapper"), "wp", file, 0, 8 * PAGE_BYTES)
    code = (
        "import mmap,sys; f=open(sys.argv[1],'r+b'); m=mmap.mmap(f.fileno(), 8<<21);"
        "print(*(m[(i<<21)+4:(i<<21)+8].decode() for i in range(8)))"
    )
    done = hugetlb.cli.run("run", "--", sys.executable, "-c", code, file)
    assert done.stdout == " ".join(["!wr!"] * 8) + "\n"


class PlainGuest(Guest):
    """Its QEMU is started by the launcher, with -mem-path alone."""

    launcher: tuple[str, ...] = (str(COMMAND), "run", "--")

    def command(self, *, is_shared: bool = True) -> list[str]:
        command = super().command(is_shared=is_shared)
        for option in ("-object", "-machine"):
            at = command.index(option)
            del command[at : at + 2]
        return [*self.launcher, *command, "-machine", "pc,mem-merge=off", "-mem-path", str(self.memory_path)]


def test_the_ram_of_plain_mem_path_is_in_the_file_and_qemu_is_let_go(
    guestmemfs: Guestmemfs, boot: BootFiles, private_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUESTMEMFS_RUN_DIR", str(guestmemfs.run_dir))
    instance = guestmemfs.mount(size=f"{SIZE_MIB}M")
    file = instance.mountpoint / "ram"
    with PlainGuest(boot, private_dir, file, SIZE_MIB) as guest:
        guest.start()
        maps = [
            line for line in Path(f"/proc/{guest.pid}/maps").read_text().splitlines() if str(file) in line
        ]
        assert maps and all(" rw-s " in line for line in maps)
        status = Path(f"/proc/{guest.pid}/status")
        assert wait_until(lambda: "TracerPid:\t0\n" in status.read_text(), 20.0)
        guest.wait_progress()
        assert guest.complaints() == []
        (row,) = guestmemfs.json("status", instance.name)["files"]
        assert [each["pid"] for each in row["mapped_by"]] == [guest.pid]


def test_a_guest_on_hugetlb_outlives_its_daemon(
    hugetlb: Instance, boot: BootFiles, private_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GUESTMEMFS_RUN_DIR", str(hugetlb.cli.run_dir))
    file = hugetlb.mountpoint / "ram"
    with PlainGuest(boot, private_dir, file, SIZE_MIB) as guest:
        guest.start()
        smaps = Path(f"/proc/{guest.pid}/smaps").read_text()
        sizes = re.findall(r"/region$.*?^KernelPageSize: +(\d+) kB", smaps, re.M | re.S)
        assert sizes and set(sizes) == {"2048"}
        os.kill(hugetlb.daemon_pid, signal.SIGKILL)
        guest.wait_progress()
        assert guest.complaints() == []
        assert guest.pattern_now() == guest.pattern_at_boot()
