"""Nobody ever sees another file's bytes in a hugetlb region, and memory comes back when its last user ends.

Files are mapped as `guestmemfs run` does it: the region file, at the extents that `map` tells.
"""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli import COMMAND, Guestmemfs, Instance
from tests.guest.rig import wait_until
from tests.zoo.rig import PAGE_BYTES, huge_pages

PAGES = 16
SECRET = b"secret!!"


@pytest.fixture
def hugetlb(guestmemfs: Guestmemfs) -> Iterator[Instance]:
    with huge_pages(PAGES):
        yield guestmemfs.mount("huge", "--region", "hugetlb", size=f"{PAGES * 2}M")
        guestmemfs.destroy_all()


def sized(path: Path, size_bytes: int) -> Path:
    path.touch()
    os.truncate(path, size_bytes)
    return path


def region_path(instance: Instance) -> Path:
    return instance.state_dir / "region" / "region"


def pieces(instance: Instance, path: Path) -> list[tuple[int, int]]:
    """(offset in the region, length) of a file's extents."""
    extents = instance.cli.json("map", path)["extents"]
    return [(each["region_offset_bytes"], each["length_bytes"]) for each in extents]


def fill(instance: Instance, path: Path) -> list[tuple[int, int]]:
    """Write the secret to every 4K of a file's blocks; returns where they are."""
    found = pieces(instance, path)
    with open(region_path(instance), "r+b") as region:
        for offset, length in found:
            with mmap.mmap(region.fileno(), length, offset=offset) as view:
                for at in range(0, length, 4096):
                    view[at : at + 8] = SECRET
    return found


def secrets_in(instance: Instance, path: Path, start: int = 0) -> int:
    """How often the secret stands in a file from `start` on."""
    whole = b""
    with open(region_path(instance), "r+b") as region:
        for offset, length in pieces(instance, path):
            with mmap.mmap(region.fileno(), length, prot=mmap.PROT_READ, offset=offset) as view:
                whole += view[:]
    return whole[start:].count(SECRET)


def test_the_blocks_of_a_removed_file_come_back_zeroed(hugetlb: Instance) -> None:
    first = sized(hugetlb.mountpoint / "first", PAGES * PAGE_BYTES)
    where = fill(hugetlb, first)
    first.unlink()
    second = sized(hugetlb.mountpoint / "second", PAGES * PAGE_BYTES)
    assert pieces(hugetlb, second) == where
    assert secrets_in(hugetlb, second) == 0


def test_blocks_that_were_cut_off_come_back_zeroed(hugetlb: Instance) -> None:
    first = sized(hugetlb.mountpoint / "first", PAGES * PAGE_BYTES)
    fill(hugetlb, first)
    os.truncate(first, PAGE_BYTES)
    second = sized(hugetlb.mountpoint / "second", (PAGES - 1) * PAGE_BYTES)
    assert secrets_in(hugetlb, second) == 0
    assert secrets_in(hugetlb, first) == PAGE_BYTES // 4096


@pytest.mark.parametrize("size", [PAGE_BYTES + 8192, PAGE_BYTES, 4096])
def test_a_file_that_is_cut_and_grown_reads_zero_behind_the_cut(hugetlb: Instance, size: int) -> None:
    file = sized(hugetlb.mountpoint / "file", 3 * PAGE_BYTES)
    fill(hugetlb, file)
    os.truncate(file, size)
    os.truncate(file, 3 * PAGE_BYTES)
    assert secrets_in(hugetlb, file, size) == 0
    assert secrets_in(hugetlb, file) == size // 4096


def test_what_was_stored_behind_the_end_does_not_show_when_the_file_grows(hugetlb: Instance) -> None:
    file = sized(hugetlb.mountpoint / "file", 4096)
    fill(hugetlb, file)
    os.truncate(file, PAGE_BYTES)
    assert secrets_in(hugetlb, file) == 1


def test_a_punched_range_reads_zero_to_the_byte(hugetlb: Instance) -> None:
    file = sized(hugetlb.mountpoint / "file", 3 * PAGE_BYTES)
    fill(hugetlb, file)
    command = ["fallocate", "--punch-hole", "-o", "4096", "-l", str(2 * PAGE_BYTES), str(file)]
    subprocess.run(command, check=True)
    assert secrets_in(hugetlb, file) == PAGE_BYTES // 4096
    assert secrets_in(hugetlb, file, 4096) == PAGE_BYTES // 4096 - 1


KILLED_BEFORE_IT_PUNCHES = """
import os, signal, sys
if "guestmemfs_fuse.daemon" in sys.orig_argv and os.path.exists({flag!r}):
    from guestmemfs_fuse.region import hugetlb
    real = hugetlb.HugetlbRegion.release
    def release(self, extents):
        if self._state is not None and os.path.exists({flag!r}) and extents and self._armed:
            os.unlink({flag!r})
            os.kill(os.getpid(), signal.SIGKILL)
        real(self, extents)
    attach = hugetlb.HugetlbRegion.attach
    def armed_attach(self, state):
        self._armed = False
        attach(self, state)
        self._armed = True
    hugetlb.HugetlbRegion.release, hugetlb.HugetlbRegion.attach = release, armed_attach
"""


def test_blocks_whose_daemon_was_killed_before_it_punched_them_come_back_zeroed(
    guestmemfs: Guestmemfs, private_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cut is journaled, the blocks are free; then SIGKILL. The caller is answered by the next daemon."""
    modules, flag = private_dir / "modules", private_dir / "armed"
    modules.mkdir()
    flag.touch()
    (modules / "sitecustomize.py").write_text(KILLED_BEFORE_IT_PUNCHES.format(flag=str(flag)))
    with huge_pages(PAGES):
        with monkeypatch.context() as context:
            context.setenv("PYTHONPATH", str(modules))
            instance = guestmemfs.mount("huge", "--region", "hugetlb", size=f"{PAGES * 2}M")
        generation = instance.status()["generation"]
        first = sized(instance.mountpoint / "first", PAGES * PAGE_BYTES)
        where = fill(instance, first)
        os.truncate(first, 0)
        assert not flag.exists()
        assert instance.status()["generation"] == generation + 1
        second = sized(instance.mountpoint / "second", PAGES * PAGE_BYTES)
        assert pieces(instance, second) == where
        assert secrets_in(instance, second) == 0
        guestmemfs.destroy_all()


MAPPER = """
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    view = mmap.mmap(file.fileno(), 0)
view[0:8] = b"precious"
print("mapped", flush=True)
sys.stdin.readline()
print(view[0:8].decode(), flush=True)
"""


@pytest.fixture
def user(hugetlb: Instance) -> Iterator[subprocess.Popen[str]]:
    """A process that maps 8 pages by `guestmemfs run` and has closed the file; the file is then removed."""
    file = sized(hugetlb.mountpoint / "file", 8 * PAGE_BYTES)
    process = subprocess.Popen(
        [str(COMMAND), "run", "--until", "1", "--", sys.executable, "-c", MAPPER, str(file)],
        env={**os.environ, "GUESTMEMFS_RUN_DIR": str(hugetlb.cli.run_dir)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "mapped\n"
    file.unlink()
    yield process
    process.kill()
    process.communicate()


def allocated_bytes(instance: Instance) -> int:
    """Pages that the region holds, as the kernel counts them; the daemon is not asked."""
    return region_path(instance).stat().st_blocks * 512


def test_a_removed_file_that_is_mapped_keeps_its_blocks(
    hugetlb: Instance, user: subprocess.Popen[str]
) -> None:
    other = hugetlb.mountpoint / "other"
    other.touch()
    with pytest.raises(OSError, match="No space left"):
        os.truncate(other, PAGES * PAGE_BYTES)
    sized(other, (PAGES - 8) * PAGE_BYTES)
    fill(hugetlb, other)
    hugetlb.cli.run("restart", hugetlb.name)
    (orphan,) = [row for row in hugetlb.status()["files"] if row["path"] == ""]
    assert [each["pid"] for each in orphan["mapped_by"]] == [user.pid]
    assert user.communicate("\n")[0] == "precious\n"


@pytest.mark.parametrize("upset", ["nothing", "restart", "kill"])
def test_its_memory_comes_back_by_itself_when_the_process_ends(
    hugetlb: Instance, user: subprocess.Popen[str], upset: str
) -> None:
    if upset == "restart":
        hugetlb.cli.run("restart", hugetlb.name)
    elif upset == "kill":
        os.kill(hugetlb.daemon_pid, 9)
        hugetlb.status()  # waits for the next one
    assert allocated_bytes(hugetlb) == PAGE_BYTES
    user.communicate("\n")
    assert wait_until(lambda: allocated_bytes(hugetlb) == 0, 20)
    assert hugetlb.status()["region"]["used_bytes"] == 0


def test_whoever_needs_the_memory_of_a_file_nobody_maps_any_more_gets_it(
    hugetlb: Instance, private_dir: Path
) -> None:
    """The process unmaps and lives on, which nobody is told."""
    code = MAPPER.replace(
        "print(view[0:8].decode(), flush=True)", "view.close(); print('unmapped', flush=True)"
    )
    file = sized(hugetlb.mountpoint / "file", 8 * PAGE_BYTES)
    process = subprocess.Popen(
        [
            str(COMMAND),
            "run",
            "--until",
            "1",
            "--",
            sys.executable,
            "-c",
            code + "sys.stdin.read()",
            str(file),
        ],
        env={**os.environ, "GUESTMEMFS_RUN_DIR": str(hugetlb.cli.run_dir)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "mapped\n"
        file.unlink()
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "unmapped\n"
        sized(hugetlb.mountpoint / "other", PAGES * PAGE_BYTES)
    finally:
        process.kill()
        process.communicate()


def test_blocks_that_a_process_maps_are_not_cut_off_even_by_force(hugetlb: Instance) -> None:
    file = sized(hugetlb.mountpoint / "other", 2 * PAGE_BYTES)
    with open(region_path(hugetlb), "r+b") as region:
        ((offset, length),) = pieces(hugetlb, file)
        with mmap.mmap(region.fileno(), length, offset=offset):
            done = hugetlb.cli.run("resize-file", file, "--size", "0", "--force", check=False)
            assert done.returncode != 0
            assert "maps what would be cut" in done.stderr
    hugetlb.cli.run("resize-file", file, "--size", "0", "--force")
