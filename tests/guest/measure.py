"""What demo and guest tests measure: blackouts, uncached stat calls, patterns, huge mappings."""

from __future__ import annotations

import hashlib
import mmap
import os
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from guestmemfs_fuse.vm.restore import RestoreReport
from guestmemfs_fuse.vm.save import SaveReport
from guestmemfs_fuse.vm.steps import Step, find_step

STAT_TIMEOUT_S = 20.0


@dataclass(frozen=True, slots=True)
class Blackout:
    """What a guest that is live-updated waits for; all in nanoseconds."""

    save: int
    quit: int
    umount: int
    mount: int
    start: int
    load: int
    whole: int
    state_bytes: int

    @property
    def rest(self) -> int:
        """What is in none of them: this script's own steps in between."""
        return self.whole - self.save - self.quit - self.umount - self.mount - self.start - self.load


def blackout(saved: SaveReport, umount: Step, mount: Step, restored: RestoreReport) -> Blackout:
    """Put the steps of both halves and what lay between them side by side."""

    def took(steps: tuple[Step, ...], *names: str) -> int:
        return sum(find_step(steps, name).took_ns for name in names)

    began_ns = find_step(saved.steps, "stop").started_ns
    return Blackout(
        save=took(saved.steps, "stop", "save"),
        quit=took(saved.steps, "quit"),
        umount=umount.took_ns,
        mount=mount.took_ns,
        start=took(restored.steps, "start", "look"),
        load=took(restored.steps, "load", "continue"),
        whole=find_step(restored.steps, "continue").ended_ns - began_ns,
        state_bytes=saved.saved.state_bytes,
    )


def timed(name: str, action: Callable[[], object]) -> Step:
    """Run something and say how long it took."""
    began_ns = time.monotonic_ns()
    action()
    return Step(name, began_ns, time.monotonic_ns() - began_ns)


def uncached_stat(path: Path) -> tuple[int, int]:
    """Size in bytes as the daemon says it (no cached attributes), and how long that took in ns."""
    began_ns = time.monotonic_ns()
    command = ["stat", "--cached=never", "--format=%s", str(path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=STAT_TIMEOUT_S)
    assert done.returncode == 0, f"stat of {path} failed"
    return int(done.stdout), time.monotonic_ns() - began_ns


def write_pattern(path: Path, size_mib: int) -> str:
    """Fill a new file with random bytes through mmap; their checksum."""
    with open(path, "xb+") as file:
        os.ftruncate(file.fileno(), size_mib << 20)
        with mmap.mmap(file.fileno(), size_mib << 20) as mapping:
            for _ in range(size_mib):
                mapping.write(os.urandom(1 << 20))
    return checksum(path)


def checksum(path: Path) -> str:
    """sha256 of a file's bytes, read through mmap as there is no other way."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
        return hashlib.sha256(mapping).hexdigest()


@dataclass(frozen=True, slots=True)
class Mapping:
    """What a process has touched of its mapping of a file, and how much of that by PMD entries."""

    resident_bytes: int
    huge_bytes: int


def mapping_of(pid: int, path: Path) -> Mapping:
    """A process's mapping of `path`, from /proc/PID/smaps; of shmem, as that is what is behind the mount."""
    kibibytes = {"Rss:": 0, "ShmemPmdMapped:": 0}
    is_ours = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        name, _, rest = line.partition(" ")
        if not name.endswith(":"):
            is_ours = line.endswith(str(path))
        elif is_ours and name in kibibytes:
            kibibytes[name] += int(rest.split()[0])
    return Mapping(kibibytes["Rss:"] << 10, kibibytes["ShmemPmdMapped:"] << 10)
