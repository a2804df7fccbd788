"""Is an instance's metadata consistent, in itself and with its region? Reads both, changes neither.

What fsck will say; kept apart from the daemon on purpose: it reads what is on disk, as the next daemon would.
"""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

from guestmemfs_fuse.core import check
from guestmemfs_fuse.engine import recovery
from guestmemfs_fuse.metadata import store
from guestmemfs_fuse.metadata.files import DirectoryFiles
from guestmemfs_fuse.metadata.instance_config import InstanceConfig, Paths
from guestmemfs_fuse.region.tmpfs import TmpfsRegion


def problems(state_dir: Path) -> list[str]:
    """Every inconsistency, a sentence each; empty when all is well. The instance is idle or stopped."""
    config, paths = InstanceConfig.load(str(state_dir)), Paths(str(state_dir))
    assert config.kind == "tmpfs", "other kinds are not in a directory that could be read from here"
    region = TmpfsRegion(paths.region, config.size_bytes, config.block_bytes, config.numa_node)
    try:
        chain = store.read_only_view(DirectoryFiles(region.metadata_path), UUID(config.uuid_hex))
        found = [f"{problem.kind}: {problem.detail}" for problem in check.problems(chain.state)]
        files = [inode for inode in chain.state.inodes.values() if inode.is_file]
        differing, strays = recovery.scan(files, region)
    finally:
        region.close()
    found += [f"inode {ino} and its backing file do not agree" for ino in differing]
    found += [f"backing file {ino} belongs to no inode" for ino in strays]
    return found
