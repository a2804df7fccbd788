"""After a kexec through which systemd (261 and later) carried a unit's fd store: make an instance of it.

The store has the files, by inode number, and the manifest that `preserve` put beside them; the mount they
were made on is not carried, nor is anything in /run. In the process that becomes the unit's daemon.

Invariants: nothing is taken out of the store before instance.json is written, so that a start that failed can
be tried again; files without a manifest are nobody's, and are let go of before others get their names.
Called by cli/carried.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Protocol

from guestmemfs_fuse.core.errors import CorruptMetadataError
from guestmemfs_fuse.core.types import Ino
from guestmemfs_fuse.handover import fdnames, luo, luo_unpack
from guestmemfs_fuse.metadata.instance_config import Paths, current_boot_id
from guestmemfs_fuse.region import memfd

Fds = Mapping[str, Sequence[int]]


class Store(memfd.FdStore, Protocol):
    """The fd store: handover/fdstore.Notifier."""

    def barrier(self) -> None: ...


def is_history(received: Fds) -> bool:
    """Whether there is a manifest of an earlier boot among what systemd gave us."""
    fds = received.get(fdnames.CARRIED, [])
    return len(fds) > 0 and luo_unpack.read_manifest(fds[-1]).boot_id != current_boot_id()


def take_over(name: str, paths: Paths, received: Fds, store: Store) -> dict[str, list[int]]:
    """Lay out what came through, as if the instance had been unmounted; what was made, to be passed on.

    Raises MetadataError when something is missing or not what it was: then the store has what there is.
    """
    manifest = luo_unpack.read_manifest(received[fdnames.CARRIED][-1])
    config = luo_unpack.unpack(manifest, name, paths)
    files = memfd.file_fds({each: list(fds) for each, fds in received.items()})
    if missing := sorted(manifest.file_sizes.keys() - files.keys()):
        raise CorruptMetadataError(
            f"systemd did not carry all files through the kexec: inodes {missing[:5]} are missing",
            hint="its last words before the kexec say why; they are lost",
        )
    for number in manifest.file_sizes:
        luo.check_file(manifest, number, os.fstat(files[Ino(number)]).st_size)
    made: dict[str, list[int]] = {}
    if memfd.MOUNT_NAME not in received:
        made = memfd.create(store, config.size_bytes, config.numa_node)
    store.barrier()
    luo_unpack.make_huge(files)
    config.save(paths.state_dir)
    return made


def let_go_of_manifest(store: Store) -> None:
    """The instance is whole: what is in the manifest is history."""
    store.remove(fdnames.CARRIED)


def let_go_of_strangers(received: Fds, store: Store) -> int:
    """Files that came through a kexec without a manifest; returns how many there were.

    The mount that files are made on is in the store as long as they are, and goes through no kexec: files
    beside it are of this boot, and stay.
    """
    if memfd.MOUNT_NAME in received:
        return 0
    names = [name for name in received if name.startswith(fdnames.REGION_PREFIX)]
    for name in names:
        store.remove(name)
    return len(names)
