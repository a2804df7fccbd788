"""`mount --reserve`: pages we put into a host's huge-page pool ourselves, and take out again.

What we added is in the instance's configuration (options["reserve"]), so that destroy gives exactly that
back. The record, {pages, floor}, is written before and behind every change of the pool. floor is what the
pool holds without ours, and stands there only while the pool is being changed: whoever finds one knows that a
command died in between, and looks. Ours is then what the pool has above it, at most `pages`.

Invariants: only persistent pages are counted (surplus ones are the kernel's own); read and write of the pool
happen under a lock on the kernel's own file, so that several instances do not undo each other. Pages that are
still mapped when they are given back become surplus and leave with their last user (set_max_huge_pages(),
mm/hugetlb.c). Nothing of an earlier boot is given back: that pool is gone.

Called by cli/mounting.py and cli/destroying.py, each with the instance claimed.
"""

from __future__ import annotations

import fcntl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from guestmemfs_fuse.core.errors import OutOfMemoryError
from guestmemfs_fuse.linux import hugepages
from guestmemfs_fuse.metadata.instance_config import RESERVE, InstanceConfig
from guestmemfs_fuse.region import host_memory, hugetlb_pool

Save = Callable[[InstanceConfig], None]


@dataclass(frozen=True, slots=True)
class Reserve:
    """pages: how many of the pool are ours; floor: how many it has without them, while that changes."""

    pages: int
    floor: int | None = None

    def ours(self, persistent: int) -> int:
        """How many pages are ours in a pool that has `persistent` pages now."""
        return self.pages if self.floor is None else min(self.pages, max(0, persistent - self.floor))


def wanted(config: InstanceConfig) -> bool:
    """Whether the instance was made with --reserve."""
    return isinstance(config.options.get(RESERVE), Mapping)


def recorded(config: InstanceConfig) -> Reserve:
    """What the configuration says is ours; a record that makes no sense says nothing is."""
    raw = config.options.get(RESERVE)
    values: Mapping[str, Any] = raw if isinstance(raw, Mapping) else {}
    pages, floor = values.get("pages", 0), values.get("floor")
    if type(pages) is not int or pages < 0 or not (floor is None or type(floor) is int):
        return Reserve(0)
    return Reserve(pages, floor)


def with_record(config: InstanceConfig, reserve: Reserve) -> InstanceConfig:
    """The same configuration with another record."""
    values = {"pages": reserve.pages, "floor": reserve.floor}
    return replace(config, options={**config.options, RESERVE: values})


def require_possible(config: InstanceConfig) -> None:
    """Raise OutOfMemoryError when the host does not have the memory that the pool lacks."""
    missing = hugetlb_pool.missing_pages(config.size_bytes, config.block_bytes, config.numa_node)
    missing_bytes, available = missing * config.block_bytes, host_memory.available_bytes(config.numa_node)
    if missing_bytes > available:
        raise OutOfMemoryError(
            f"--reserve would have to add {missing_bytes >> 20} MiB of huge pages, "
            f"the host has {max(0, available) >> 20} MiB",
            hint="choose a smaller --size",
        )


def take(config: InstanceConfig, save: Save) -> InstanceConfig:
    """Add to the pool what it lacks for this region; returns the configuration that says so.

    save: writes a configuration durably. Raises OutOfMemoryError when the kernel does not find all pages; the
    pool is then as it was.
    """
    with _pool_locked(config) as pool:
        before = _persistent(pool)
        missing = hugetlb_pool.missing_pages(config.size_bytes, config.block_bytes, config.numa_node)
        if not missing:
            return config
        save(with_record(config, Reserve(missing, floor=before)))
        got = _set(config, before + missing) - before
        if got < missing:
            _set(config, before)
            save(with_record(config, Reserve(0)))
            raise hugetlb_pool.too_few(config, missing, max(0, got))
        done = with_record(config, Reserve(missing))
        save(done)
    return done


def give_back(config: InstanceConfig, boot_id: str, save: Save) -> InstanceConfig:
    """Take out of the pool what `take` put in; doing it twice is harmless. Returns the new configuration.

    boot_id: of the running kernel.
    """
    reserve = recorded(config)
    if not reserve.pages:
        return config
    done = with_record(config, Reserve(0))
    if config.boot_id == boot_id:
        with _pool_locked(config) as pool:
            persistent = _persistent(pool)
            floor = persistent - reserve.ours(persistent)
            save(with_record(config, Reserve(reserve.pages, floor)))
            _set(config, floor)
    save(done)
    return done


@contextmanager
def _pool_locked(config: InstanceConfig) -> Iterator[hugepages.Pool]:
    """Nobody else of us changes this page size's pool in here, on whatever node."""
    with open(hugepages.pool_path(config.block_bytes)) as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield hugetlb_pool.pool_of(config.block_bytes, config.numa_node)


def _persistent(pool: hugepages.Pool) -> int:
    return pool.total - pool.surplus


def _set(config: InstanceConfig, pages: int) -> int:
    hugepages.set_pool(config.block_bytes, pages, config.numa_node)
    return _persistent(hugetlb_pool.pool_of(config.block_bytes, config.numa_node))
