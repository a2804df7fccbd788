"""Instances inside a VM, for scripts that run there: few processes, each start is seconds of emulation."""

from __future__ import annotations

import mmap
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from guestmemfs_fuse.control import client
from guestmemfs_fuse.core.errors import DaemonError
from guestmemfs_fuse.linux import memory

REPO = Path(__file__).resolve().parents[2]
COMMAND = str(REPO / ".venv/bin/guestmemfs")
STATE = Path("/run/guestmemfs")
MIB = 1 << 20
WAIT_S = 120.0


def run(*command: str) -> str:
    """A command's stdout; it must succeed."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def mount(name: str, *options: str) -> Path:
    """Mount an instance on /run/mnt/NAME, anew or again; returns its mountpoint."""
    mountpoint = Path("/run/mnt") / name
    mountpoint.mkdir(parents=True, exist_ok=True)
    mounter = (sys.executable, "-m", "tests.vm.inside_mount", "mount")
    run(*mounter, str(mountpoint), "--name", name, *options)
    return mountpoint


def ask(name: str, operation: str, **arguments: object) -> Any:
    """What the daemon answers on its control socket; waits for one that is being started."""
    state_dir = str(STATE / name)
    return client.call(state_dir, operation, arguments, timeout_s=WAIT_S, wait_s=WAIT_S)


def kill_daemon(name: str) -> int:
    """SIGKILL it; returns the generation of the next one, once that answers."""
    pong = ask(name, "ping")
    os.kill(pong["pid"], signal.SIGKILL)
    deadline = time.monotonic() + WAIT_S
    while time.monotonic() < deadline:
        try:
            generation = int(ask(name, "ping")["generation"])
        except DaemonError:
            continue  # hung up on by the one that dies
        if generation > pong["generation"]:
            return generation
    raise SystemExit("no other daemon came")


def extents(name: str, path: str) -> list[tuple[int, int]]:
    """(offset in the region, length) of the pieces of a file."""
    found = ask(name, "map", path=path)["extents"]
    return [(each["region_offset_bytes"], each["length_bytes"]) for each in found]


def sized(path: Path, mib: int) -> Path:
    """A file with memory."""
    path.touch()
    os.truncate(path, mib * MIB)
    return path


def use(path: Path, offset_bytes: int, length_bytes: int) -> None:
    """Store to every page of a range of a file."""
    with _mapped(path, offset_bytes, length_bytes) as view:
        for at in range(0, length_bytes, 4096):
            view.write(at, b"guest")


def lose(path: Path, offset_bytes: int, length_bytes: int, lost_at: int) -> None:
    """The same, and then the kernel loses the page at lost_at; it may kill who maps a huge page (SIGBUS)."""
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGBUS, signal.SIG_DFL)
        use(path, offset_bytes, length_bytes)
        with _mapped(path, offset_bytes, length_bytes) as view:
            view.write(lost_at, b"guest")
            view.advise(mmap.MADV_HWPOISON, lost_at, 4096)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if status and not (os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGBUS):
        raise SystemExit(f"the page was not lost: {status:#x}")


@contextmanager
def _mapped(path: Path, offset_bytes: int, length_bytes: int) -> Iterator[memory.Mapping]:
    protection = memory.PROT_READ | memory.PROT_WRITE
    fd = os.open(path, os.O_RDWR)
    try:
        with memory.Mapping(fd, length_bytes, prot=protection, offset_bytes=offset_bytes) as view:
            yield view
    finally:
        os.close(fd)
