#!/usr/bin/env python3
"""How large it may get: the structures of core at 4 TiB, 2,000 guests and 100,000 files, without that memory.

Run by `make scale`, no root needed; prints the Markdown tables that docs/scale.md quotes. What runs is core
itself (decide, evolve, the free map) and the codec, as the daemon calls them, without FUSE and without a
region's memory behind it.

Times are CPU time, so that a busy host does not change them much. Memory is what the process grew by, each
part in a process of its own.
"""

from __future__ import annotations

import gc
import os
import random
import stat
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple, NoReturn
from uuid import UUID

from guestmemfs_fuse.bench import machine
from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.decide import decide
from guestmemfs_fuse.core.evolve import apply
from guestmemfs_fuse.core.extents import FreeMap
from guestmemfs_fuse.core.records import Made, Transaction
from guestmemfs_fuse.core.state import State, new_state
from guestmemfs_fuse.core.types import ROOT_INO, BackingId, BlockNumber, Extent, Ino, Unique
from guestmemfs_fuse.metadata import codec, snapshot
from guestmemfs_fuse.metadata.files import DirectoryFiles
from guestmemfs_fuse.metadata.framing import FRAME_HEADER_BYTES

MIB, GIB, TIB = 1 << 20, 1 << 30, 1 << 40
BLOCK_BYTES = 2 * MIB
REGION_BYTES = 4 * TIB
GUESTS = 2_000
FILES = 100_000
STEPS = (1_000, 10_000, FILES)
CHURN = 20_000
PROBES = 500
SEED = 20241122
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_REGION = UUID(int=1)
_REGULAR = stat.S_IFREG | 0o600


class Row(NamedTuple):
    """One line of a table; times in microseconds of CPU."""

    what: str
    figures: Sequence[str]


class Core:
    """A state under the daemon's own rules, and how many bytes its journal would have."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.journal_bytes = 0
        self._unique = 0

    def do(self, command: cmd.Command) -> Ino:
        """Decide, encode, apply: what one request costs but for the write(2)."""
        self._unique += 2
        records = decide(command, self.state, time.time_ns())
        made = next((record.ino for record in records if isinstance(record, Made)), ROOT_INO)
        transaction = Transaction(records, Unique(self._unique), made)
        self.journal_bytes += FRAME_HEADER_BYTES + len(codec.encode(transaction))
        apply(self.state, transaction)
        return made

    def create(self, name: bytes, size_bytes: int = 0, parent: Ino = ROOT_INO) -> Ino:
        ino = self.do(cmd.Make(parent, name, _REGULAR, 0, 0))
        if size_bytes:
            self.do(cmd.Resize(ino, size_bytes))
        return ino

    def remove(self, name: bytes) -> None:
        root = self.state.root.directory
        assert root is not None
        ino = root.get(name)
        assert ino is not None
        self.do(cmd.Unlink(ROOT_INO, name))
        self.do(cmd.Reap(ino))


# -- measuring -------------------------------------------------------------------------------------------


def each(items: Sequence[object], work: Callable[[int], object]) -> str:
    """CPU time of work(0), work(1), ...: median, 99th percentile and the longest."""
    took_ns: list[int] = []
    clock = time.thread_time_ns
    for number in range(len(items)):
        began_ns = clock()
        work(number)
        took_ns.append(clock() - began_ns)
    took_ns.sort()
    at = [took_ns[len(took_ns) // 2], took_ns[len(took_ns) * 99 // 100], took_ns[-1]]
    return " / ".join(f"{value / 1000:,.0f}" for value in at)


def once(work: Callable[[], object]) -> str:
    """CPU time of one long piece of work, in milliseconds."""
    began_ns = time.thread_time_ns()
    work()
    return f"{(time.thread_time_ns() - began_ns) / 1e6:,.0f}"


def resident_bytes() -> int:
    """What this process has in memory now."""
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * _PAGE_BYTES


def grown(before_bytes: int) -> str:
    """By how much this process grew, in MiB."""
    gc.collect()
    return f"{(resident_bytes() - before_bytes) / MIB:,.0f} MiB"


def apart(part: Callable[[], Iterator[Row]]) -> list[Row]:
    """Run one part in a process of its own, so that its memory is its own."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        _report(part, writer)
    os.close(writer)
    with open(reader, encoding="utf-8") as report:
        cells = [line.split("\t") for line in report.read().splitlines()]
    rows = [Row(what, figures) for what, *figures in cells]
    _pid, status = os.waitpid(child, 0)
    if status:
        raise SystemExit("a part failed; see above")
    return rows


def _report(part: Callable[[], Iterator[Row]], writer: int) -> NoReturn:
    """In the child: never returns."""
    try:
        gc.freeze()
        gc.disable()  # the daemon freezes what it loaded; here everything would be looked at again and again
        with open(writer, "w", encoding="utf-8") as out:
            for row in part():
                out.write("\t".join([row.what, *row.figures]) + "\n")
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


# -- one directory with many files -----------------------------------------------------------------------


def files_in_one_directory() -> Iterator[Row]:
    """Every operation at 1,000, 10,000 and 100,000 files: the cost must not follow the number."""
    core = Core(new_state(region_bytes=REGION_BYTES, block_bytes=BLOCK_BYTES, now_ns=0))
    before_bytes = resident_bytes()
    names = [b"guest-%06d.ram" % number for number in range(STEPS[-1])]
    done = 0
    for count in STEPS:
        for name in names[done : count - PROBES]:
            core.create(name)
        probe = names[count - PROBES : count]
        figures = _with_these(core, probe)
        for name in probe:
            core.create(name)
        done = count
        yield Row(f"{count:,}", [*figures, grown(before_bytes)])


def _with_these(core: Core, names: Sequence[bytes]) -> list[str]:
    """Make, find, list, register and remove `names` beside what is there."""
    root = core.state.root.directory
    assert root is not None
    middle, core.journal_bytes = root.next_cookie // 2, 0
    create = each(names, lambda number: core.create(names[number]))
    frame_bytes = core.journal_bytes // len(names)
    inos = [Ino(root.get(name) or 0) for name in names]
    return [
        create,
        each(names, lambda number: root.get(names[number])),
        each(range(200), lambda _number: list(_some(root.after(middle), 100))),
        each(inos, lambda number: core.do(cmd.OpenBacking(inos[number], BackingId(number + 1)))),
        each(names, lambda number: core.remove(names[number])),
        str(frame_bytes),
    ]


def _some(entries: Iterator[object], count: int) -> Iterator[object]:
    for _, entry in zip(range(count), entries, strict=False):
        yield entry


def snapshots() -> Iterator[Row]:
    """Folding and loading many inodes: flat, in directories, and with an extent each."""
    for what, extents, per_directory in (
        (f"{FILES:,} files in one directory", False, FILES),
        (f"{FILES:,} files, 100 a directory", False, 100),
        (f"{FILES:,} files of one extent each (hugetlb)", True, FILES),
    ):
        yield from apart(partial(_snapshot, what, extents, per_directory))


def _snapshot(what: str, extents: bool, per_directory: int) -> Iterator[Row]:
    """Written by a child, so that here nothing but what is loaded takes memory."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as directory:
        (written,) = apart(partial(_write_snapshot, directory, extents, per_directory))
        files = DirectoryFiles(directory)
        loaded: list[object] = []
        before_bytes = resident_bytes()
        read = once(lambda: loaded.append(snapshot.read(files, _REGION, 0)))
        memory = grown(before_bytes)
        size_bytes = files.size_bytes(snapshot.snapshot_name(0))
        files.close()
    yield Row(what, [f"{size_bytes / MIB:.1f} MiB", written.what, read, memory])


def _write_snapshot(directory: str, extents: bool, per_directory: int) -> Iterator[Row]:
    core = Core(new_state(region_bytes=REGION_BYTES, block_bytes=BLOCK_BYTES, now_ns=0, extents=extents))
    parent = ROOT_INO
    for number in range(FILES):
        if per_directory < FILES and number % per_directory == 0:
            parent = core.do(cmd.Make(ROOT_INO, b"d%d" % number, stat.S_IFDIR | 0o700, 0, 0))
        core.create(b"guest-%06d.ram" % number, BLOCK_BYTES if extents else 0, parent)
    yield Row(once(lambda: snapshot.write(DirectoryFiles(directory), _REGION, 0, core.state)), [])


# -- 4 TiB of extents ------------------------------------------------------------------------------------


def guests_on_extents() -> Iterator[Row]:
    """2,000 guests of 2 GiB on 4 TiB: made, replaced by others of other sizes, and what that fragments."""
    before_bytes = resident_bytes()
    state = new_state(region_bytes=REGION_BYTES, block_bytes=BLOCK_BYTES, now_ns=0, extents=True)
    core, chance = Core(state), random.Random(SEED)
    names = [b"guest-%04d" % number for number in range(GUESTS)]
    sizes = [chance.choice((1, 2, 2, 2, 3)) * GIB for _ in names]
    took = each(names, lambda number: core.create(names[number], sizes[number]))
    yield _guests_row(f"make {GUESTS:,} guests of 1 to 3 GiB", took, core, before_bytes)

    def replace(_number: int) -> None:
        at = chance.randrange(GUESTS)
        core.remove(names[at])
        core.create(names[at], min(_size(chance), _free_bytes(state)))

    took = each(range(CHURN), replace)
    yield _guests_row(f"replace one by another of 2 MiB to 3 GiB, {CHURN:,} times", took, core, before_bytes)


def _size(chance: random.Random) -> int:
    return chance.randrange(1, 3 * GIB // BLOCK_BYTES) * BLOCK_BYTES


def _free_bytes(state: State) -> int:
    assert state.free is not None
    return state.free.free_blocks * BLOCK_BYTES


def _guests_row(what: str, took: str, core: Core, before_bytes: int) -> Row:
    free = core.state.free
    assert free is not None
    counts = [len(inode.extents) for inode in core.state.inodes.values() if inode.is_file]
    pieces = f"{sum(counts) / len(counts):.2f} / {max(counts)}"
    return Row(what, [took, pieces, f"{free.fragment_count:,}", grown(before_bytes)])


def worst_free_map() -> Iterator[Row]:
    """Every second block of 4 TiB used: the most runs there can be."""
    blocks = REGION_BYTES // BLOCK_BYTES
    before_bytes = resident_bytes()
    maps: list[FreeMap] = []
    used = (Extent(BlockNumber(block), 1) for block in range(0, blocks, 2))
    build = once(partial(_build, maps, blocks, used))
    free = maps[0]
    yield Row("build from the files' extents (ms)", [build])
    chance = random.Random(SEED)
    taken: list[tuple[Extent, ...]] = []
    yield Row("take 1 block", [each(range(5_000), lambda _number: taken.append(free.allocate(1)))])
    yield Row("give 1 block back", [each(taken, lambda number: free.free(taken[number]))])
    several = each(range(20), lambda _number: taken.append(free.allocate(1_024)))
    yield Row("take 2 GiB, in 1,024 pieces", [several])
    at = [chance.randrange(1, blocks, 2) for _ in range(1_000)]
    bad = each(at, lambda number: free.quarantine(BlockNumber(at[number])))
    yield Row("put a bad block out of use", [bad])
    yield Row(f"memory of {free.fragment_count:,} free runs", [grown(before_bytes)])


def _build(maps: list[FreeMap], blocks: int, used: Iterator[Extent]) -> None:
    maps.append(FreeMap(blocks, used))


# -- printing --------------------------------------------------------------------------------------------


def table(title: str, columns: Sequence[str], rows: Sequence[Row]) -> None:
    """One Markdown table."""
    print(f"\n### {title}\n")
    print("| " + " | ".join(columns) + " |")
    print("|---" * len(columns) + "|")
    for row in rows:
        print("| " + " | ".join([row.what, *row.figures]) + " |")
    sys.stdout.flush()


def main() -> None:
    """All tables, in the order of docs/scale.md."""
    host = machine.describe()
    print(f"{host['cpu']}, {host['cpus']} CPUs, Linux {host['kernel']}, Python {host['python']}")
    print("Times: CPU, median / 99th percentile / longest, in microseconds unless said otherwise.")
    columns: tuple[str, ...] = (
        "files",
        "create",
        "look up",
        "list 100",
        "register backing",
        "unlink and reap",
    )
    table("One directory", (*columns, "journal bytes a create", "memory"), apart(files_in_one_directory))
    columns = ("what", "snapshot", "write (ms)", "load (ms)", "memory once loaded")
    table("A snapshot", columns, list(snapshots()))
    columns = ("4 TiB in 2 MiB blocks", "each", "extents a file (mean / most)", "free runs", "memory")
    table("Guests on extents", columns, apart(guests_on_extents))
    table("The worst free map: every second of 2,097,152 blocks used", ("what", ""), apart(worst_free_map))


if __name__ == "__main__":
    main()
