"""What fsck finds: the state in itself, and the state against the region. Reads only.

Two sources, one list of findings: `of_state` is core/check plus what an image may hold that no program of
ours writes; `of_region` compares every file with its backing and every backing with the files. Repairs are
elsewhere (fsck_tree, fsck_blocks, fsck_offline, fsck_online); whether one worked is found out by looking
again, never assumed.

Kinds are stable (docs/fsck.md, a test compares). Called by fsck_offline and fsck_online.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from guestmemfs_fuse.core import check
from guestmemfs_fuse.core.errors import FsError
from guestmemfs_fuse.core.state import Inode, State
from guestmemfs_fuse.core.types import NAME_MAX_BYTES, Ino, round_up
from guestmemfs_fuse.region.base import Region

Tick = Callable[[int, int], None]
"""Told from time to time how much of how much is done."""

_TICK_EVERY: Final = 500


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem. ino: of the file concerned, None where it is about a metadata file."""

    kind: str
    ino: int | None
    detail: str
    repaired: bool = False


@dataclass(frozen=True, slots=True)
class Checked:
    """How much was looked at. backings: None where the region could not be reached (a stopped memfd)."""

    inodes: int = 0
    names: int = 0
    files: int = 0
    backings: int | None = None
    transactions: int = 0


@dataclass(frozen=True, slots=True)
class Result:
    """What one run found and did; notes: sentences for the operator (what was lost, what to do)."""

    findings: tuple[Finding, ...]
    checked: Checked
    notes: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """Nothing was wrong to begin with."""
        return not self.findings

    @property
    def unrepaired(self) -> tuple[Finding, ...]:
        """What is still wrong."""
        return tuple(finding for finding in self.findings if not finding.repaired)

    def as_plain(self) -> dict[str, Any]:
        """The documented JSON, without name and mode."""
        return {
            "clean": self.clean,
            "problems": [asdict(finding) for finding in self.findings],
            "checked": asdict(self.checked),
            "notes": list(self.notes),
        }


def nothing_to_tell(done: int, total: int) -> None:
    """A Tick nobody listens to."""


def judged(before: Iterable[Finding], after: Iterable[Finding]) -> tuple[Finding, ...]:
    """`before` with what is gone marked as repaired, and what is only there `after`."""
    left = {(finding.kind, finding.ino): finding for finding in after}
    said = [
        replace(finding, repaired=left.pop((finding.kind, finding.ino), None) is None) for finding in before
    ]
    return (*said, *left.values())


def of_state(state: State) -> Iterator[Finding]:
    """What is wrong with inode table, namespace and extents."""
    for problem in check.problems(state):
        yield Finding(problem.kind, problem.ino, problem.detail)
    for inode in state.inodes.values():
        for name, _ in inode.directory.items() if inode.directory is not None else ():
            if not possible_name(name):
                yield Finding("impossible-name", inode.ino, f"it has an entry {name[:64]!r}")


def possible_name(name: bytes) -> bool:
    """Whether a directory can have such an entry."""
    return 0 < len(name) <= NAME_MAX_BYTES and name not in (b".", b"..") and not {0, 0x2F} & set(name)


def count(state: State, region_backings: int | None, transactions: int = 0) -> Checked:
    """The figures of a run over `state`."""
    directories = [inode.directory for inode in state.inodes.values() if inode.directory is not None]
    return Checked(
        inodes=len(state.inodes),
        names=sum(map(len, directories)),
        files=sum(inode.is_file for inode in state.inodes.values()),
        backings=region_backings,
        transactions=transactions,
    )


def of_region(
    files: Collection[Inode], region: Region, tick: Tick = nothing_to_tell
) -> tuple[list[Finding], int]:
    """What is wrong between files and backings, and how many backings there are. Blocks."""
    known = {inode.ino for inode in files}
    found: list[Finding] = []
    for done, inode in enumerate(files):
        if done % _TICK_EVERY == 0:
            tick(done, len(files))
        found += of_file(inode, region)
    strays = backings = 0
    for ino in region.inventory():
        backings += 1
        if ino not in known:
            strays += 1
            found.append(of_stray(ino, region))
    tick(len(files), len(files))
    return found, backings


def of_file(inode: Inode, region: Region) -> list[Finding]:
    """One regular file against its backing."""
    try:
        status = region.stat(inode)
    except FsError:
        # An orphan loses its memory before it is reaped: a crash in between leaves it to the next start.
        return [] if inode.nlink == 0 else [_missing(inode)]
    found = []
    reach = round_up(max(inode.size_bytes, inode.prealloc_bytes), region.block_bytes)
    if status.size_bytes != inode.size_bytes:
        detail = f"its backing has {status.size_bytes} bytes, it has {inode.size_bytes}"
        found.append(Finding("backing-size", inode.ino, detail))
    if region.region_file is None and status.allocated_bytes > reach:
        detail = f"its backing holds {status.allocated_bytes} bytes of memory, it reaches {reach}"
        found.append(Finding("backing-memory", inode.ino, detail))
    return found


def _missing(inode: Inode) -> Finding:
    return Finding("missing-backing", inode.ino, f"its backing is gone, and {inode.size_bytes} bytes with it")


def of_stray(ino: Ino, region: Region) -> Finding:
    """A backing that belongs to no file."""
    try:
        allocated_bytes = region.stat(stray(ino)).allocated_bytes
    except FsError:
        return Finding("alien-backing", ino, "something that is no backing of ours stands among them")
    if allocated_bytes:
        return Finding("stray-backing", ino, f"a backing with {allocated_bytes} bytes belongs to no file")
    return Finding("empty-stray", ino, "an empty backing belongs to no file (a create that was interrupted)")


def stray(ino: Ino) -> Inode:
    """Stands for a backing without an inode in calls to the region."""
    return Inode(ino, stat.S_IFREG | 0o600, 0, 0, 1, 0, 0, 0)
