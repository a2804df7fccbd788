#!/usr/bin/env python3
"""Who waits while somebody looks at an instance with 100,000 files, or changes it: a client that stats.

Run by `make scale` as root, prints the Markdown table that docs/scale.md quotes. A busy host only ever makes
waits longer, so the least of some rounds says most about us, and the first line what the host adds.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from guestmemfs_fuse.bench.native import ToolFailedError
from guestmemfs_fuse.bench.rig import Bench, CommandFailedError, Instance

MIB, GIB = 1 << 20, 1 << 30
FILES = 100_000
ROUNDS = 5
LARGE_BYTES = 4 * GIB
PAUSE_S = "1"

Act = Callable[[], object]


def pause() -> None:
    """Let time pass in which nothing is asked for."""
    subprocess.run(["sleep", PAUSE_S], check=True)


def acts_on_many(bench: Bench, many: Instance) -> dict[str, Act]:
    """Everything a command can ask of a daemon that serves FILES files, and two things its kernel can."""
    directory, name = many.mountpoint / "d0", many.name
    path = many.mountpoint / "guest"
    path.touch()
    os.truncate(path, 32 * MIB)

    def run(*arguments: object) -> Act:
        return lambda: bench.guestmemfs(*arguments)

    def both(*pair: Act) -> Act:
        return lambda: [act() for act in pair]

    return {
        "nothing": pause,
        "`status`": run("status", name),
        "`status --json`": run("status", name, "--json"),
        "`metrics`, `top`": both(run("metrics"), run("top", name, "--count", 1, "--interval", 0.1)),
        "`map FILE`": run("map", path),
        "`map TARGET`": run("map", name),
        "`debug-dump`": run("debug-dump", name, "--output", bench.directory / "dump.tar.gz"),
        "`fsck`": run("fsck", name),
        "`pin`, `unpin`": both(run("pin", path), run("unpin", path)),
        "`freeze`, `thaw`": both(run("freeze", name), run("thaw", name)),
        "`resize`": both(run("resize", name, "--size", 128 * MIB), run("resize", name, "--size", 64 * MIB)),
        "statfs, 1,000 times": lambda: [os.statvfs(many.mountpoint) for _ in range(1000)],
        "listing all files": lambda: sum(1 for _ in os.scandir(directory)),
        "`restart`": run("restart", name),
    }


def acts_on_large(large: Instance) -> dict[str, Act]:
    """Memory that comes and goes."""
    path = large.mountpoint / "large"

    def grow() -> None:
        path.touch()
        os.truncate(path, LARGE_BYTES)

    def make_and_remove() -> None:
        grow()
        path.unlink()
        pause()  # the kernel says that it has forgotten the file a moment later

    size = f"{LARGE_BYTES // GIB} GiB"
    return {f"truncate to {size}, and unlink": make_and_remove}


def waits(bench: Bench, watched: Path, acts: Mapping[str, Act]) -> None:
    """One line for each act."""
    for what, act in acts.items():
        rounds = []
        try:
            for _ in range(ROUNDS):
                with bench.watching(watched) as found:
                    act()
                rounds.append(found)
        except (CommandFailedError, ToolFailedError) as error:
            print(f"| {what} | failed: {error} | | |", flush=True)
            continue
        longest = sorted(each["longest_ns"] / 1e6 for each in rounds)
        late = min(each["p99_ns"] / 1e6 for each in rounds)
        middle = statistics.median(longest)
        print(f"| {what} | {longest[0]:.1f} ms | {middle:.1f} ms | {late:.2f} ms |", flush=True)


def main() -> None:
    """The table."""
    print(f"\n### One client that stats, while there are {FILES:,} files\n")
    print(f"| meanwhile | longest wait, least of {ROUNDS} | median of {ROUNDS} | 99% |\n|---|---|---|---|")
    with Bench() as bench:
        many = bench.filled(FILES)
        waits(bench, many.mountpoint / "guest", acts_on_many(bench, many))
        large = bench.instance("large", LARGE_BYTES + 64 * MIB)
        (large.mountpoint / "other").touch()
        waits(bench, large.mountpoint / "other", acts_on_large(large))


if __name__ == "__main__":
    main()
