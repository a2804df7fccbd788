#!/usr/bin/env python3
"""How large it may get, on a real mount: 100,000 files, 1,000 of them open and mapped at once, a big region.

Run by `make scale` as root, prints the Markdown table that docs/scale.md quotes. The region is 16 GiB where
the host can spare that, else as much as it can; whatever happens, it is gone afterwards.
"""

from __future__ import annotations

import json
import mmap
import os
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from guestmemfs_fuse.region import host_memory
from tests.cli import Guestmemfs, Instance

MIB, GIB = 1 << 20, 1 << 30
FILES, DIRECTORIES, OPEN = 100_000, 1_000, 1_000
PROBES = 1_000
BIG_BYTES = 16 * GIB
SPARE_BYTES = 4 * GIB
"""Left to the rest of the host."""


def say(what: str, figure: str) -> None:
    """One line of the table, at once."""
    print(f"| {what} | {figure} |" + ("" if " | " in figure else " |"), flush=True)


class Meter:
    """Times calls, and what the daemon's event loop computes for them, which a busy host does not change."""

    def __init__(self, daemon_pid: int) -> None:
        self._path = Path(f"/proc/{daemon_pid}/schedstat")

    def _cpu_ns(self) -> int:
        return int(self._path.read_text().split()[0])

    def each(self, numbers: range, work: Callable[[int], object]) -> str:
        """What work(n) took: median and 99th percentile, and the daemon's CPU time on average."""
        took: list[float] = []
        before_ns = self._cpu_ns()
        for number in numbers:
            began_s = time.perf_counter()
            work(number)
            took.append(time.perf_counter() - began_s)
        cpu_us = (self._cpu_ns() - before_ns) / len(took) / 1000
        took.sort()
        median, late = took[len(took) // 2] * 1e6, took[len(took) * 99 // 100] * 1e6
        return f"{median:,.0f} / {late:,.0f} us | {cpu_us:,.0f} us"


def seconds(work: Callable[[], object]) -> str:
    """What one piece of work took."""
    began_s = time.perf_counter()
    work()
    return f"{time.perf_counter() - began_s:,.2f} s"


class Calls:
    """Somebody who calls all the time, and how long he waited."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stop = threading.Event()
        self.waits_s: list[float] = []

    @contextmanager
    def going_on(self) -> Iterator[Calls]:
        """Call in a thread while the block runs."""
        caller = threading.Thread(target=self._call)
        caller.start()
        try:
            yield self
        finally:
            self._stop.set()
            caller.join()

    def _call(self) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            began_s = time.perf_counter()
            # A name that was never asked for: the kernel cannot answer from its cache.
            os.path.exists(self._path / f"nobody-{time.monotonic_ns()}-{number}")
            self.waits_s.append(time.perf_counter() - began_s)

    @property
    def text(self) -> str:
        """99th percentile and the longest."""
        waits_s = sorted(self.waits_s)
        return f"{waits_s[len(waits_s) * 99 // 100] * 1e3:,.1f} / {waits_s[-1] * 1e3:,.0f} ms"


# -- the parts -------------------------------------------------------------------------------------------


def make_files(where: Path, meter: Meter) -> None:
    """Many files in one directory, the first and the last of them timed; and directories."""

    def create(number: int) -> None:
        os.close(os.open(where / f"guest-{number:06d}.ram", os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))

    say(f"create file 1 to {PROBES:,}", meter.each(range(PROBES), create))
    for number in range(PROBES, FILES - PROBES):
        create(number)
    say(f"create file {FILES - PROBES:,} to {FILES:,}", meter.each(range(FILES - PROBES, FILES), create))
    say(
        f"make {DIRECTORIES:,} directories, each",
        meter.each(range(DIRECTORIES), lambda n: (where / f"d{n}").mkdir()),
    )
    say(f"list all {FILES + DIRECTORIES:,}", seconds(lambda: os.listdir(where)))
    say("stat, one after another", meter.each(range(FILES - PROBES, FILES), lambda n: _path(where, n).stat()))
    say(
        f"unlink and make again, {FILES:,} there",
        meter.each(range(PROBES), lambda n: _again(where, n, create)),
    )


def _path(where: Path, number: int) -> Path:
    return where / f"guest-{number:06d}.ram"


def _again(where: Path, number: int, create: Callable[[int], None]) -> None:
    _path(where, number).unlink()
    create(number)


def open_many(where: Path, meter: Meter) -> None:
    """1,000 files of one block each, open and mapped at once, a byte of each used."""
    with ExitStack() as held:
        opened: list[tuple[int, mmap.mmap]] = []

        def open_and_map(number: int) -> None:
            fd = os.open(_path(where, number), os.O_RDWR)
            held.callback(os.close, fd)
            os.ftruncate(fd, 2 * MIB)
            opened.append((fd, mmap.mmap(fd, 2 * MIB)))

        say(f"open, truncate to 2 MiB and map {OPEN:,}, each", meter.each(range(OPEN), open_and_map))
        for number, (_fd, memory) in enumerate(opened):
            memory[:8] = number.to_bytes(8, "little")
        for number, (_fd, memory) in enumerate(opened):
            assert int.from_bytes(memory[:8], "little") == number
        for _fd, memory in opened:
            memory.close()


def fill(instance: Instance, free_bytes: int) -> None:
    """One file over all that is left, while somebody calls."""
    path = instance.mountpoint / "big.ram"
    fd = os.open(path, os.O_CREAT | os.O_RDWR, 0o600)
    with Calls(instance.mountpoint).going_on() as calls:
        took = seconds(lambda: os.ftruncate(fd, free_bytes))
    os.close(fd)
    say(f"truncate one file to {free_bytes / GIB:.1f} GiB", took)
    say("calls meanwhile waited (p99 / most)", calls.text)
    say("unlink it", seconds(path.unlink))


def live_and_die(instance: Instance) -> None:
    """Folding, restart and SIGKILL with everything there, while somebody calls."""
    with Calls(instance.mountpoint).going_on() as calls:
        said = instance.cli.run("restart", instance.name).stdout.split(", ")[-1].strip()
    say("restart, by its own account", said)
    say("calls meanwhile waited (p99 / most)", calls.text)
    pid = instance.status()["daemon_pid"]
    with Calls(instance.mountpoint).going_on() as calls:
        os.kill(pid, signal.SIGKILL)
        os.path.exists(instance.mountpoint / "after-it")
    say("SIGKILL: calls waited (most)", calls.text.split(" / ")[1])


def figures(instance: Instance) -> None:
    """Memory and disk, as status and the kernel have them."""
    status: dict[str, Any] = json.loads(instance.cli.run("status", instance.name, "--json").stdout)
    say("daemon, resident", _resident(status["daemon_pid"]))
    say("holder, resident", _resident(status["holder_pid"]))
    journal = status["journal"]
    say(
        "snapshot and journal",
        f"{journal['snapshot_bytes'] / MIB:.1f} + {journal['journal_bytes'] / MIB:.1f} MiB",
    )


def _resident(pid: int) -> str:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return f"{int(line.split()[1]) / 1024:.0f} MiB"
    raise AssertionError("no VmRSS")


def main() -> None:
    """The table."""
    size_bytes = min(BIG_BYTES, (host_memory.available_bytes() - SPARE_BYTES) // GIB * GIB)
    if size_bytes < 4 * GIB:
        raise SystemExit("this host has no 8 GiB to spare")
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="gm-scale-") as directory:
        cli = Guestmemfs(Path(directory))
        try:
            instance = cli.mount("scale", size=str(size_bytes))
            meter = Meter(instance.status()["daemon_pid"])
            print(f"\n### A mount of {size_bytes // GIB} GiB\n")
            print("| what | median / 99th percentile | the daemon's CPU, each |\n|---|---|---|")
            make_files(instance.mountpoint, meter)
            open_many(instance.mountpoint, meter)
            figures(instance)
            fill(instance, size_bytes - OPEN * 2 * MIB)
            live_and_die(instance)
        finally:
            cli.destroy_all()


if __name__ == "__main__":
    main()
