"""Area 6, allocation: truncate to some GiB beside fallocate on the same tmpfs, and others meanwhile."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from guestmemfs_fuse.bench.area import Collector
from guestmemfs_fuse.bench.measure import Figures
from guestmemfs_fuse.bench.results import IN_C, OURS, Area, Target
from guestmemfs_fuse.bench.rig import SPARE_BYTES, Bench, Instance, cpus, fits
from guestmemfs_fuse.bench.scale import GIB, MIB, Scale
from guestmemfs_fuse.core.errors import GuestmemfsError, OutOfMemoryError

DIRECT = "fallocate, same tmpfs"
HUGETLB = "fallocate, hugetlbfs"
IDLE = "nothing else going on"
AS_FALLOCATE = Target("within 5% of fallocate", 1.05, "ratio")

_ROOM_WITHIN_S, _POLL_S = 10.0, 0.005
_MOST_ROUNDS_BYTES = 96 * GIB
"""How much is allocated per contender and size at most: huge sizes get fewer rounds."""


def measure(bench: Bench, scale: Scale) -> Area:
    """Run the area."""
    out = Collector("allocation", "Allocation", bench.say, scale.part_s, x_name="size", x_unit="B")
    out.note(
        "Allocating does not zero on tmpfs; the first touch does, so it is measured with it as well, in "
        "memory that was in use a moment ago: what a hypervisor took back would be touched at its pace. "
        "hugetlbfs zeroes in fallocate, and its pool was filled before."
    )
    out.note(
        f"`{IN_C}` passes fallocate on to the same tmpfs and does nothing else: the least that asking a "
        "sleeping server costs. Its files cannot be mapped like ours, so they are not touched."
    )
    sizes = [size for size in scale.allocation_bytes if fits(size)]
    for size in scale.allocation_bytes:
        if size not in sizes:
            out.leave_out(f"{_named(size)}: more than the {SPARE_BYTES / GIB:g} GiB to spare would be taken")
    if sizes:
        ours = bench.instance("allocation", max(sizes) + 64 * MIB)
        try:
            for size in sizes:
                _compare(bench, scale, ours, size, out)
            _meanwhile(bench, scale, ours, min(sizes), out)
        finally:
            ours.destroy()
    return out.area()


def _named(size_bytes: int) -> str:
    return f"{size_bytes / GIB:g} GiB" if size_bytes >= GIB else f"{size_bytes / MIB:g} MiB"


def _compare(bench: Bench, scale: Scale, ours: Instance, size_bytes: int, out: Collector) -> None:
    rounds = max(1, min(scale.memory_rounds, _MOST_ROUNDS_BYTES // size_bytes))
    touches = size_bytes <= scale.touched_up_to_bytes
    if not touches:
        out.leave_out(f"allocate and touch {_named(size_bytes)}: only in a longer run")
    with ExitStack() as stack:
        paths = {OURS: ours.mountpoint / "file", DIRECT: ours.region_path / "bench"}
        try:
            if not fits(2 * size_bytes):
                raise GuestmemfsError("its pool would not fit beside the file")
            paths[HUGETLB] = stack.enter_context(bench.hugetlbfs("huge-alloc", size_bytes)) / "file"
        except GuestmemfsError as error:
            out.leave_out(f"{HUGETLB}, {_named(size_bytes)}: {error}")

        try:
            paths[IN_C] = stack.enter_context(bench.served_in_c(ours.region_path)) / "bench"
        except GuestmemfsError as error:
            out.leave_out(f"{IN_C}: {error}")

        def one(name: str) -> Figures:
            if name != HUGETLB:
                # Of the region's own tmpfs: asked itself, the mount would make room.
                _wait_for_room(ours.region_path, size_bytes)
                _once(bench, paths[DIRECT], size_bytes, _fallocate, touches)
            call = _truncate if name == OURS else _fallocate
            return _once(bench, paths[name], size_bytes, call, touches and name != IN_C)

        turns = {name: partial(one, name) for name in paths}
        samples = out.interleave(f"allocating {_named(size_bytes)}", rounds, turns)
    rows = {"allocate": "allocate", "touch": "allocate and touch"}
    for metric, title in rows.items():
        title = f"{title} {_named(size_bytes)}"
        taken = samples.get(metric, {})
        out.row(metric, title, "ns", taken, control=DIRECT, x=size_bytes, target=AS_FALLOCATE)


def _truncate(fd: int, size_bytes: int) -> None:
    os.ftruncate(fd, size_bytes)


def _fallocate(fd: int, size_bytes: int) -> None:
    os.posix_fallocate(fd, 0, size_bytes)


def _once(
    bench: Bench, path: Path, size_bytes: int, call: Callable[[int, int], None], touches: bool
) -> Figures:
    with _file(path) as fd:
        began_ns = time.perf_counter_ns()
        call(fd, size_bytes)
        took_ns = float(time.perf_counter_ns() - began_ns)
        figures = {"allocate": took_ns}
        if touches:
            populated = bench.run("memory", "populate", path, size_bytes, max(2, cpus()), 1)
            figures["touch"] = took_ns + populated["populate_ns"]
    return figures


def _wait_for_room(path: Path, size_bytes: int) -> None:
    """What was removed on a FUSE mount gives its memory back a moment later, when the kernel forgets it."""
    deadline = time.monotonic() + _ROOM_WITHIN_S
    while True:
        free = os.statvfs(path)
        if free.f_bavail * free.f_bsize >= size_bytes:
            return
        if time.monotonic() > deadline:
            raise OutOfMemoryError(f"{path} still lacks room for {size_bytes} bytes")
        time.sleep(_POLL_S)


@contextlib.contextmanager
def _file(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        yield fd
    finally:
        os.unlink(path)
        os.close(fd)


def _meanwhile(bench: Bench, scale: Scale, ours: Instance, size_bytes: int, out: Collector) -> None:
    """What other callers wait for while somebody allocates without a pause."""
    _wait_for_room(ours.region_path, size_bytes)  # which the server in C may not have given back
    other = ours.mountpoint / "other"
    other.touch()

    def idle() -> Figures:
        with bench.watching(other) as found:
            time.sleep(scale.allocation_watch_s)
        return found

    def busy() -> Figures:
        with bench.watching(other) as found:
            end = time.monotonic() + scale.allocation_watch_s
            while time.monotonic() < end:
                with _file(ours.mountpoint / "file") as fd:
                    os.ftruncate(fd, size_bytes)
        return found

    rounds = min(scale.rounds, 3)
    samples = out.interleave("others meanwhile", rounds, {OURS: busy, IDLE: idle}, warmup=0)
    other.unlink()
    what = f"stat of another file while {_named(size_bytes)} are allocated again and again"
    for metric in ("median", "p99", "longest"):
        out.row(f"meanwhile_{metric}", f"{what}, {metric}", "ns", samples[f"{metric}_ns"], control=IDLE)
