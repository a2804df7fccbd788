"""Area 3, the control path: what calls on the filesystem cost, from 1 and from 8 clients.

Beside ours: the same handlers behind pyfuse3's plain loop (what the relay costs or saves), a C server
that passes calls on (what Python costs), and tmpfs (what FUSE costs).
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from guestmemfs_fuse.bench.area import Collector
from guestmemfs_fuse.bench.results import IN_C, OURS, Area, Target
from guestmemfs_fuse.bench.rig import Bench
from guestmemfs_fuse.bench.scale import GIB, Scale
from guestmemfs_fuse.core.errors import GuestmemfsError

PLAIN = "pyfuse3, plain loop"
TMPFS = "tmpfs"
CLIENTS = (1, 8)
SIZE_BYTES = 1 * GIB

NEARLY_PLAIN = Target("at most 1.25x plain pyfuse3", 1.25, "ratio")
AS_TMPFS = Target("as on tmpfs (at most 1.1x)", 1.1, "ratio")

TITLES = {
    "create": "create and close",
    "open": "open and close",
    "stat_cold": "stat, asking the server",
    "stat_cached": "stat, cached",
    "rename": "rename",
    "truncate": "truncate an empty file to 2M",
    "unlink": "unlink",
}


def measure(bench: Bench, scale: Scale) -> Area:
    """Run the area."""
    out = Collector("control", "Control path", bench.say, scale.part_s)
    out.note(
        "Time per call: the wall clock from the first client's first call to the last client's last one, "
        "over all calls. With 8 clients that is the price of a call in a queue, not what one client waits."
    )
    out.note(
        f"`{PLAIN}` has the same handlers, journal and region, but neither passthrough nor resumption; its "
        "files cannot be mapped. truncate allocates a block there and in ours; the others only note a size."
    )
    out.note(
        "Ours answers LOOKUP, GETATTR, UNLINK and RENAME without libfuse. What was removed is let go a few "
        "milliseconds after its FORGET, by the same code in both; ours also asks the kernel whether it knows "
        "the file, and gives its backing id back."
    )
    out.note(
        f"`{IN_C}` is a server of our own on libfuse's low-level interface that passes every call on to a "
        "tmpfs, as libfuse's passthrough example does, with libfuse's loop of several threads."
    )
    with _mounts(bench, out) as mounts:
        files = {1: scale.control_files, 8: scale.control_files_of_eight}
        for clients in CLIENTS:
            _session(bench, scale, mounts, clients, files[clients], out)
        _lists(bench, scale, mounts, out)
    return out.area()


@contextmanager
def _mounts(bench: Bench, out: Collector) -> Iterator[dict[str, Path]]:
    with ExitStack() as stack:
        ours = bench.instance("control", SIZE_BYTES)
        stack.callback(ours.destroy)
        found = {OURS: ours.mountpoint}

        def source(name: str) -> Path:
            path = bench.tmpfs(name, f"size={SIZE_BYTES * 2},huge=always")
            stack.callback(bench.umount, path)
            return path

        plain = (sys.executable, "-m", "guestmemfs_fuse.bench.plain_server")
        found[PLAIN] = stack.enter_context(bench.served("plain", plain, source("plain"), SIZE_BYTES))
        try:
            found[IN_C] = stack.enter_context(bench.served_in_c(source("passthrough")))
        except GuestmemfsError as error:
            out.leave_out(f"{IN_C}: {error}")
        found[TMPFS] = source("tmpfs")
        yield found


def _session(
    bench: Bench, scale: Scale, mounts: dict[str, Path], clients: int, files: int, out: Collector
) -> None:
    turns = {
        name: partial(bench.run, "calls", "session", path, clients, files) for name, path in mounts.items()
    }
    who = "one client" if clients == 1 else f"{clients} clients"
    samples = out.interleave(f"calls of {who}", scale.rounds, turns)
    for name, title in TITLES.items():
        is_cached = name == "stat_cached"
        out.row(
            f"{name}_{clients}",
            f"{title}, {who}",
            "ns",
            samples[name],
            control=TMPFS if is_cached else PLAIN,
            target=AS_TMPFS if is_cached else NEARLY_PLAIN,
        )


def _lists(bench: Bench, scale: Scale, mounts: dict[str, Path], out: Collector) -> None:
    for path in mounts.values():
        bench.run("calls", "fill", path, scale.list_entries, scale.list_entries)
    for clients in CLIENTS:
        turns = {
            name: partial(bench.run, "calls", "list", path / "d0", clients) for name, path in mounts.items()
        }
        who = "one client" if clients == 1 else f"{clients} clients"
        samples = out.interleave(f"listing, {who}", scale.rounds, turns)
        out.row(
            f"readdir_{clients}",
            f"list {scale.list_entries:,} entries, {who}",
            "ns",
            samples["readdir"],
            control=PLAIN,
            target=NEARLY_PLAIN,
        )
