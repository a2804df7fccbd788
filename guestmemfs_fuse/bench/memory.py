"""Area 1, the memory path: a file of ours, mapped through the mount, beside what else a VMM could map.

The control is the backing file itself, opened in the region's tmpfs: the very same pages without the
filesystem in between, so whatever differs is the filesystem's doing. Only the first touch needs files of
their own, made anew each time.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from guestmemfs_fuse.bench.area import Collector
from guestmemfs_fuse.bench.measure import Better, Figures, Samples
from guestmemfs_fuse.bench.pool import HUGE_PAGE_BYTES
from guestmemfs_fuse.bench.results import OURS, Area, Target, Unit
from guestmemfs_fuse.bench.rig import Bench, Instance, cpus, fits
from guestmemfs_fuse.bench.scale import GIB, MIB, Scale
from guestmemfs_fuse.core.errors import GuestmemfsError, OutOfMemoryError

DIRECT = "tmpfs file, directly"
HUGETLB = "hugetlbfs"
SMALL = "tmpfs, 4K pages"
SMALL_PAGE_BYTES = 4096

AS_DIRECT = Target("within 2% of the tmpfs file", 1.02, "ratio")
ALL_HUGE = Target("no 4K page anywhere", 1.0, "figure", at_least=True)

_MMAP_REPEATS = 300
_MMAP_ROUNDS = 6
"""Times as many rounds as of others: one takes milliseconds, and is off by a third when the CPU is."""

_PASSES = 3
_ROUNDS_OF_OTHERS = 5
_FREE_WITHIN_S, _POLL_S = 5.0, 0.005


@dataclass(frozen=True, slots=True)
class Contender:
    """One kind of file.

    fresh: makes a new file of that many bytes that nobody has touched; its path to map, and to remove.
    root: of the filesystem its memory is in.
    """

    name: str
    page_bytes: int
    root: Path
    fresh: Callable[[int], tuple[Path, Path]]

    def remove(self, path: Path) -> None:
        """Remove such a file, and wait until its memory is free: the next one shall be made of the same."""
        used = path.stat().st_blocks * 512
        before = os.statvfs(self.root)
        path.unlink()
        deadline = time.monotonic() + _FREE_WITHIN_S
        while time.monotonic() < deadline:
            now = os.statvfs(self.root)
            if (now.f_bfree - before.f_bfree) * now.f_bsize >= used:
                return
            time.sleep(_POLL_S)


def measure(bench: Bench, scale: Scale) -> Area:
    """Run the area."""
    out = Collector("memory", "Memory path", bench.say, scale.part_s, x_name="file", x_unit="B")
    out.note(
        "The control is the backing file itself, opened in the region's tmpfs: the same pages without the "
        "filesystem; for the first touch, which a page has only once, another file of that tmpfs. mmap is "
        "timed as a VMM does it, over a reserved and aligned range."
    )
    out.note(
        "First touch populates a file whose memory was allocated before (truncate, fallocate): zeroing and "
        "mapping. hugetlbfs zeroes in fallocate, so there the file is only extended before it is touched."
    )
    out.note(
        "Ours and the control take turns in many rounds, to be compared to a fiftieth; the others follow "
        "in a few rounds of their own, and are compared with the control's median."
    )
    sizes = [scale.memory_bytes, *(size for size in scale.random_bytes if fits(2 * size))]
    with _contenders(bench, max(sizes), out) as contenders:
        _first_touch(bench, scale, contenders, out)
        _in_use(bench, scale, contenders, out)
        for size_bytes in scale.random_bytes:
            _random(bench, scale, contenders, size_bytes, out)
    return out.area()


@contextmanager
def _contenders(bench: Bench, most_bytes: int, out: Collector) -> Iterator[list[Contender]]:
    room_bytes = most_bytes + 64 * MIB
    with ExitStack() as stack:
        ours = bench.instance("memory", room_bytes)
        stack.callback(ours.destroy)
        small_path = bench.tmpfs("small", f"size={room_bytes},huge=never")
        stack.callback(bench.umount, small_path)
        found = [
            Contender(
                OURS, HUGE_PAGE_BYTES, ours.region_path, lambda size: _on_mount(ours, size, directly=False)
            ),
            Contender(
                DIRECT, HUGE_PAGE_BYTES, ours.region_path, lambda size: _on_mount(ours, size, directly=True)
            ),
            Contender(
                SMALL, SMALL_PAGE_BYTES, small_path, lambda size: _allocated(small_path / "file", size)
            ),
        ]
        try:
            if not fits(3 * most_bytes):  # the pool, and the largest files of two others
                raise OutOfMemoryError("its pool would not fit beside the files")
            huge_path = stack.enter_context(bench.hugetlbfs("huge", most_bytes))
            found.append(
                Contender(
                    HUGETLB, HUGE_PAGE_BYTES, huge_path, lambda size: _extended(huge_path / "file", size)
                )
            )
        except GuestmemfsError as error:
            out.leave_out(f"{HUGETLB}: {error}")
        yield found


def _on_mount(ours: Instance, size_bytes: int, *, directly: bool) -> tuple[Path, Path]:
    path = ours.mountpoint / "file"
    _extended(path, size_bytes)
    return (ours.backing_path(path) if directly else path), path


def _extended(path: Path, size_bytes: int) -> tuple[Path, Path]:
    with open(path, "xb") as file:
        os.ftruncate(file.fileno(), size_bytes)
    return path, path


def _allocated(path: Path, size_bytes: int) -> tuple[Path, Path]:
    with open(path, "xb") as file:
        os.posix_fallocate(file.fileno(), 0, size_bytes)
    return path, path


# -- what is measured ------------------------------------------------------------------------------------


def _first_touch(bench: Bench, scale: Scale, contenders: list[Contender], out: Collector) -> None:
    """Of files made for it each time, from one thread and from all."""
    size_bytes, gibibytes = scale.memory_bytes, scale.memory_bytes / GIB
    many = max(2, cpus())
    metrics = {1: "first_touch", many: "first_touch_parallel"}

    def one(contender: Contender) -> Figures:
        figures: dict[str, float] = {}
        # The first file is for nothing: whoever comes after others gets memory that they have not warmed.
        for threads in (0, *metrics):
            path, remove = contender.fresh(size_bytes)
            populated = bench.run("memory", "populate", path, size_bytes, threads or many, 1)
            if threads:
                figures[metrics[threads]] = populated["populate_ns"] / gibibytes
            contender.remove(remove)
        return figures

    samples = _interleaved(scale, contenders, one, out, "first touch")
    titles = ("first touch (populate), per GiB", f"first touch from {many} threads, per GiB")
    for metric, title in zip(metrics.values(), titles, strict=True):
        out.row(metric, title, "ns", samples[metric], control=DIRECT, target=AS_DIRECT)


def _in_use(bench: Bench, scale: Scale, contenders: list[Contender], out: Collector) -> None:
    size_bytes = scale.memory_bytes
    many = max(2, cpus())
    with _lasting(bench, contenders, size_bytes) as paths:

        def maps(contender: Contender) -> Figures:
            return bench.run("memory", "mmap", paths[contender.name], size_bytes, 1, _MMAP_REPEATS)

        def one(contender: Contender) -> Figures:
            def tool(op: str, threads: int = 1, repeat: int = 1) -> dict[str, float]:
                page = {"BENCH_PAGE_BYTES": str(contender.page_bytes)}
                return bench.run("memory", op, paths[contender.name], size_bytes, threads, repeat, **page)

            return {
                "repopulate": tool("repopulate", repeat=_PASSES)["repopulate_ns"] / (size_bytes / GIB),
                "faults": tool("faults")["faults_per_s"],
                "faults_parallel": tool("faults", many)["faults_per_s"],
                **tool("read", repeat=_PASSES),
                **tool("write", repeat=_PASSES),
                **tool("coverage"),
            }

        samples = _interleaved(scale, contenders, one, out, "memory in use")
        samples |= _interleaved(scale, contenders, maps, out, "mmap", times=_MMAP_ROUNDS)
    titles: list[tuple[str, str, Unit]] = [
        ("mmap_ns", "mmap of the whole file", "ns"),
        ("munmap_ns", "munmap of the whole file, untouched", "ns"),
        ("repopulate", "populate a new mapping of memory in use, per GiB", "ns"),
        ("faults", "page faults of one thread (with emptying the tables)", "1/s"),
        ("faults_parallel", f"page faults of {many} threads (with emptying)", "1/s"),
        ("read_bytes_per_s", "sequential read", "B/s"),
        ("write_bytes_per_s", "sequential write", "B/s"),
    ]
    for metric, title, unit in titles:
        better: Better = "less" if unit == "ns" else "more"
        out.row(metric, title, unit, samples[metric], control=DIRECT, better=better, target=AS_DIRECT)
    out.row(
        "huge_fraction", "in huge pages", "fraction", samples["huge_fraction"], better="more", target=ALL_HUGE
    )


def _random(bench: Bench, scale: Scale, contenders: list[Contender], size_bytes: int, out: Collector) -> None:
    if not fits(size_bytes * 2):
        out.leave_out(f"random access over {size_bytes / GIB:g} GiB: not enough free memory")
        return
    title = f"random 8-byte access over {size_bytes / GIB:g} GiB"
    with _lasting(bench, contenders, size_bytes) as paths:

        def one(contender: Contender) -> Figures:
            return bench.run("memory", "random", paths[contender.name], size_bytes, 1, 1)

        samples = _interleaved(scale, contenders, one, out, title)
    out.row("random_ns", title, "ns", samples["random_ns"], control=DIRECT, x=size_bytes, target=AS_DIRECT)


@contextmanager
def _lasting(bench: Bench, contenders: list[Contender], size_bytes: int) -> Iterator[dict[str, Path]]:
    """A file of each contender, all of it in memory, for all rounds; ours and the control are one file."""
    with ExitStack() as stack:
        paths: dict[str, Path] = {}
        for contender in contenders:
            if contender.name == DIRECT:
                continue
            paths[contender.name], remove = contender.fresh(size_bytes)
            stack.callback(contender.remove, remove)
            bench.run("memory", "populate", paths[contender.name], size_bytes, max(2, cpus()), 1)
        paths[DIRECT] = Instance(bench, "memory", paths[OURS].parent).backing_path(paths[OURS])
        yield paths


def _interleaved(
    scale: Scale,
    contenders: list[Contender],
    one: Callable[[Contender], Figures],
    out: Collector,
    what: str,
    *,
    times: int = 1,
) -> Samples:
    """Ours and its control take turns in many rounds, then the others in a few: they differ by far more."""
    turns = {each.name: partial(one, each) for each in contenders}
    pair = {name: turns.pop(name) for name in (OURS, DIRECT)}
    samples = out.interleave(what, scale.memory_rounds * times, pair)
    others = out.interleave(f"{what}, others", min(scale.memory_rounds, _ROUNDS_OF_OTHERS), turns)
    return {metric: {**figures, **others[metric]} for metric, figures in samples.items()}
