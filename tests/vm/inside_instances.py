"""Instances inside a VM, for scripts that run there: few processes, each start is seconds of emulation."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

from guestmemfs_fuse.control import client
from guestmemfs_fuse.linux import memory

REPO = Path(__file__).resolve().parents[2]
COMMAND = str(REPO / ".venv/bin/guestmemfs")
STATE = Path("/run/guestmemfs")
MIB = 1 << 20
DAEMON_FAILED = 8
WAIT_S = 120.0


def run(*command: str) -> str:
    """A command's stdout; it must succeed."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def mount(name: str, *options: str) -> Path:
    """Mount an instance on /run/mnt/NAME, anew or again; returns its mountpoint."""
    mountpoint = Path("/run/mnt") / name
    mountpoint.mkdir(parents=True, exist_ok=True)
    command = [COMMAND, "mount", str(mountpoint), "--name", name, *options]
    for _ in range(6):
        # Ten seconds are short for an emulated daemon; the next one finds its files in the page cache.
        if subprocess.run(command).returncode != DAEMON_FAILED:
            return mountpoint
    raise SystemExit("the daemon does not start")


def ask(name: str, operation: str, **arguments: object) -> Any:
    """What the daemon answers on its control socket; waits for one that is being started."""
    state_dir = str(STATE / name)
    return client.call(state_dir, operation, arguments, timeout_s=WAIT_S, wait_s=WAIT_S)


def extents(name: str, path: str) -> list[tuple[int, int]]:
    """(offset in the region, length) of the pieces of a file."""
    found = ask(name, "map", path=path)["extents"]
    return [(each["region_offset_bytes"], each["length_bytes"]) for each in found]


def sized(path: Path, mib: int) -> Path:
    """A file with memory."""
    path.touch()
    os.truncate(path, mib * MIB)
    return path


def use(path: Path, offset_bytes: int, length_bytes: int, *, lost_at: int | None = None) -> None:
    """Store to every page of a range of a file; have the kernel lose the page at lost_at, if given."""
    protection = memory.PROT_READ | memory.PROT_WRITE
    fd = os.open(path, os.O_RDWR)
    try:
        with memory.Mapping(fd, length_bytes, prot=protection, offset_bytes=offset_bytes) as view:
            for at in range(0, length_bytes, 4096):
                view.write(at, b"guest")
            if lost_at is not None:
                view.advise(memory.MADV_HWPOISON, lost_at, 4096)
    finally:
        os.close(fd)
