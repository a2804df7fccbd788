"""Runs the areas one after the other and hands back what they found. Called by `guestmemfs bench`."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from guestmemfs_fuse import __version__
from guestmemfs_fuse.bench import (
    allocation,
    control,
    durability,
    guest,
    lifecycle,
    machine,
    memory,
)
from guestmemfs_fuse.bench.results import Area, Results
from guestmemfs_fuse.bench.rig import SPARE_BYTES, Bench, cpus
from guestmemfs_fuse.bench.scale import GIB, Scale
from guestmemfs_fuse.region import host_memory

log = logging.getLogger(__name__)

AREAS: dict[str, Callable[[Bench, Scale], Area]] = {
    "memory": memory.measure,
    "guest": guest.measure,
    "control": control.measure,
    # makes the many files that durability uses again; its idle part wants to be alone
    "lifecycle": lifecycle.measure,
    "durability": durability.measure,
    "allocation": allocation.measure,
}
"""In the order they run."""


def run(
    scale: Scale, names: Iterable[str], say: Callable[[str], None], *, guest_kernel: Path | None = None
) -> Results:
    """Run the named areas. say: told what is going on. guest_kernel: what the guest area boots.

    An area that fails is reported as failed, and the others go on. Raises UnsupportedError (no compiler).
    Whatever happens, what the run made is gone afterwards.
    """
    described = machine.describe()
    began_s = time.monotonic()
    found: list[Area] = []
    with Bench(say) as bench:
        bench.guest_kernel = guest_kernel
        for tool in ("memory", "calls"):
            bench.program(tool)
        if described["hypervisor"]:
            _warm(bench, scale)
        for name in names:
            say(f"{name}: begins")
            found.append(_attempt(name, bench, scale))
            how = f"failed: {found[-1].failed}" if found[-1].failed else f"took {found[-1].took_s:.0f} s"
            say(f"{name}: {how}")
    return Results(described, scale.name, __version__, time.monotonic() - began_s, tuple(found))


def _warm(bench: Bench, scale: Scale) -> None:
    """Touch memory once: what the hypervisor has yet to give is forty times slower, for who comes first."""
    size_bytes = min(scale.warm_bytes, host_memory.available_bytes() - SPARE_BYTES) // GIB * GIB
    if size_bytes <= 0:
        return
    bench.say(f"touching {size_bytes // GIB} GiB, so that the hypervisor has given it")
    path = bench.tmpfs("warm", f"size={size_bytes},huge=always")
    try:
        with open(path / "file", "xb") as file:
            file.truncate(size_bytes)
        bench.run("memory", "populate", path / "file", size_bytes, cpus(), 1)
    finally:
        bench.umount(path)


def _attempt(name: str, bench: Bench, scale: Scale) -> Area:
    began_s = time.monotonic()
    try:
        return AREAS[name](bench, scale)
    except Exception as error:  # whatever it is: the other areas' minutes must not be lost with it
        log.debug("area %s failed", name, exc_info=True)
        took_s = time.monotonic() - began_s
        return Area(name, name.capitalize(), (), failed=f"{type(error).__name__}: {error}", took_s=took_s)
