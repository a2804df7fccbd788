"""fsck --repair over damaged golden files of every format version: never a traceback, never a loop.

Without a region, so that what is damaged is really lost; what a region saves is in test_fsck_metadata.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from guestmemfs_fuse.engine import fsck_offline
from guestmemfs_fuse.metadata import store
from guestmemfs_fuse.metadata.salvage import Geometry
from tests.unit.metadata.memory_files import MemoryFiles
from tests.unit.metadata.workload import REGION

GOLDEN = Path(__file__).parents[1] / "metadata" / "golden"
VERSIONS = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir() and path.name.startswith("v"))


def there(version: str) -> MemoryFiles:
    """A copy of that version's files."""
    files = MemoryFiles()
    for path in (GOLDEN / version).glob("*.gm?"):
        files.put(path.name, path.read_bytes())
    return files


@pytest.mark.parametrize("version", VERSIONS)
def test_every_flipped_byte_and_every_cut_is_repaired_or_refused_by_name(version: str) -> None:
    original = there(version)
    state = store.read_only_view(original, REGION).state
    inodes = set(state.inodes)
    geometry = Geometry(state.region_bytes, state.block_bytes, state.free is not None)
    repaired = kept = 0
    for name in original.names():
        content = original.read(name)
        for at in range(0, len(content), 3):
            flipped = content[:at] + bytes([content[at] ^ 0x5A]) + content[at + 1 :]
            for damaged in (flipped, content[:at]):
                files = there(version)
                files.put(name, damaged)
                result = fsck_offline.check(files, REGION, None, repair=True, geometry=geometry)
                if result.unrepaired:
                    assert {each.kind for each in result.unrepaired} == {"unknown-format"}, (name, at, result)
                    continue
                assert fsck_offline.check(files, REGION, None, repair=False).clean, (name, at)
                repaired += 1
                kept += inodes <= set(store.read_only_view(files, REGION).state.inodes)
    assert repaired > 100
    assert kept > 50
