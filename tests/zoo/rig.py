"""A region without a daemon: a hugetlbfs with one tagged file, a tmpfs as the FUSE mount, the programs.

Page N of the region begins with "pageNNNN", so what a program reads says which page it has. Huge pages are
added to the host's pool and given back, whatever fails; other runs beside this one may do the same (the pool
is changed by differences, under a lock).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import mmap
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from guestmemfs_fuse.linux import mount
from tests.require import require

SOURCES = Path(__file__).resolve().parent
PAGE_BYTES = 2 << 20
POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
TIMEOUT_S = 60.0

Build = Callable[..., Path]
"""build(NAME, *compiler options): the compiled program; the fixture `zoo`."""


def build(directory: Path, name: str, *options: str) -> Path:
    """Compile tests/zoo/NAME.c; returns the program."""
    require(shutil.which("gcc"), "gcc")
    program = directory / "-".join([name, *(option.strip("-") for option in options)])
    command = ["gcc", "-O1", "-Wall", *options, "-o", str(program), str(SOURCES / f"{name}.c"), "-lpthread"]
    subprocess.run(command, check=True)
    return program


@contextlib.contextmanager
def pool_lock() -> Iterator[None]:
    """No other test changes the pool meanwhile."""
    with open(Path(tempfile.gettempdir()) / "guestmemfs-test-hugepages.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _change_pool(pages: int) -> int:
    """Add pages (or take them away); returns how many were added."""
    with pool_lock(), open(POOL) as changed:
        # What `mount --reserve` and `destroy` lock, which others may run beside the tests.
        fcntl.flock(changed, fcntl.LOCK_EX)
        before = int(POOL.read_text())
        POOL.write_text(str(max(0, before + pages)))
        return int(POOL.read_text()) - before


@contextlib.contextmanager
def huge_pages(pages: int) -> Iterator[None]:
    """So many 2M pages more than before, while it lasts."""
    require(os.geteuid() == 0, "root")
    require(POOL.exists(), "2M huge pages")
    added = _change_pool(pages)
    try:
        require(added == pages, f"{pages} free 2M pages")
        yield
    finally:
        _change_pool(-added)


@dataclass(slots=True)
class FakeMount:
    """A tmpfs whose files are said to be laid out in the region file."""

    directory: Path
    region_path: Path
    pages: int
    kind: str = "hugetlb"
    files: dict[str, Any] = field(default_factory=dict)

    def page(self, number: int) -> bytes:
        """The first 8 bytes of a page of the region."""
        with open(self.region_path, "r+b") as file:
            view = mmap.mmap(file.fileno(), self.pages * PAGE_BYTES)
            try:
                return view[number * PAGE_BYTES : number * PAGE_BYTES + 8]
            finally:
                view.close()

    def retag(self) -> None:
        """Write every page's number to its beginning."""
        with open(self.region_path, "r+b") as file:
            view = mmap.mmap(file.fileno(), self.pages * PAGE_BYTES)
            for number in range(self.pages):
                view[number * PAGE_BYTES : number * PAGE_BYTES + 8] = b"page%04d" % number
            view.close()

    def file(self, name: str, *runs: tuple[int, int], mode: int = 0o666) -> Path:
        """A file made of runs of region pages (first page, count)."""
        segments = []
        at = 0
        for first, count in runs:
            segments.append([at, first * PAGE_BYTES, count * PAGE_BYTES])
            at += count * PAGE_BYTES
        layout = {
            "kind": self.kind,
            "page_bytes": PAGE_BYTES,
            "passthrough": False,
            "path": str(self.region_path),
            "size_bytes": at,
            "segments": segments,
        }
        path = self.plain_file(name, layout, size_bytes=at)
        path.chmod(mode)
        return path

    def plain_file(self, name: str, layout: Any, *, size_bytes: int = 0) -> Path:
        """A file with whatever layout the table is to answer."""
        path = self.directory / name
        path.touch()
        os.truncate(path, size_bytes)
        self.files[str(path.stat().st_ino)] = layout
        return path

    def table(self) -> Path:
        """The table for table_run, with all files so far."""
        device = os.stat(self.directory).st_dev
        row = {"kind": self.kind, "page_bytes": PAGE_BYTES, "files": self.files}
        path = self.directory.parent / f"table-{self.kind}.json"
        path.write_text(json.dumps({f"{os.major(device)}:{os.minor(device)}": row}))
        return path

    def command(self, options: Sequence[str], *command: object) -> list[str]:
        """The command line that runs `command` redirected."""
        launcher = [sys.executable, str(SOURCES / "table_run.py"), str(self.table()), *options, "--"]
        return [*launcher, *(str(argument) for argument in command)]

    def run(self, *command: object, options: Sequence[str] = ()) -> subprocess.CompletedProcess[str]:
        """Run a command redirected, to its end."""
        return subprocess.run(
            self.command(options, *command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )

    def start(self, *command: object, options: Sequence[str] = ()) -> subprocess.Popen[str]:
        """Start a command redirected; the caller ends it.

        In a process group of its own: where the suite runs in the background of a shell that has ended, its
        own group is an orphaned one, and POSIX lets SIGTSTP do nothing there.
        """
        return subprocess.Popen(
            self.command(options, *command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            process_group=0,
        )


@contextlib.contextmanager
def _mounted(fstype: str, options: dict[str, str | None], directory: Path) -> Iterator[Path]:
    directory.mkdir(mode=0o755)
    mount_fd = mount.new_filesystem(fstype, options)
    try:
        mount.attach(mount_fd, str(directory))
    finally:
        os.close(mount_fd)
    try:
        yield directory
    finally:
        mount.umount(str(directory), mount.MNT_DETACH)


@contextlib.contextmanager
def fake_mount(directory: Path, pages: int, *, spare_pages: int = 0) -> Iterator[FakeMount]:
    """A region of `pages` tagged 2M pages, all reserved; spare_pages more may be taken by private copies."""
    size, reserved = str((pages + spare_pages) * PAGE_BYTES), str(pages * PAGE_BYTES)
    huge = {"pagesize": "2M", "size": size, "min_size": reserved, "mode": "0700"}
    with (
        huge_pages(pages + spare_pages),
        _mounted("hugetlbfs", dict(huge), directory / "huge") as region,
        _mounted("tmpfs", {"mode": "0755"}, directory / "mnt") as files,
    ):
        region_path = region / "region"
        region_path.touch(mode=0o600)
        os.truncate(region_path, pages * PAGE_BYTES)
        fake = FakeMount(files, region_path, pages)
        fake.retag()
        yield fake
