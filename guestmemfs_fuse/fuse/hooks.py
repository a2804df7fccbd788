"""What the relay asks the filesystem: the few requests that pyfuse3 has no handler for, and backing ids.

Invariants: whoever implements RelayHooks raises core.errors.FsError to refuse a call; anything else is a
bug, is logged and answered EIO. Implemented by engine_hooks, called by the relay, never the other way round.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from guestmemfs_fuse.fuse.wire import Attributes


class Request(NamedTuple):
    """Who asks, and under which number.

    unique: the kernel's number of the request, the same before and after a resend; resent: a daemon before us
    may have read this request, and done it, without answering; pid: of the caller (0 for the kernel itself).
    """

    unique: int
    resent: bool
    nodeid: int
    uid: int
    gid: int
    pid: int


@dataclass(frozen=True, slots=True)
class TmpfileReply:
    """The new unnamed file: its attributes (a pyfuse3.EntryAttributes will do) and its open file handle."""

    attributes: Attributes
    fh: int


class RelayHooks(Protocol):
    """The filesystem as the relay needs it. The async calls run in a task each, several at a time."""

    def backing_for(self, nodeid: int) -> int | None:
        """The backing id every open of this inode must use, asked when its OPEN or CREATE reply passes.

        None: the region has no passthrough; the file opens, but cannot be mapped (ENODEV).
        """

    def forget(self, nodeids: list[int]) -> None:
        """The kernel dropped these inodes; unknown ones are normal after a resume. Must not block."""

    def interrupt(self, unique: int) -> None:
        """The caller of this request got a signal and would like EINTR; no answer is expected."""

    async def fallocate(self, request: Request, fh: int, offset: int, length: int, mode: int) -> None:
        """fallocate(2): offset and length in bytes, mode as given by the caller."""

    async def lseek(self, request: Request, offset: int, whence: int) -> int:
        """SEEK_DATA or SEEK_HOLE from offset (bytes); returns the offset found."""

    async def tmpfile(self, request: Request, mode: int, flags: int, umask: int) -> TmpfileReply:
        """open(2) with O_TMPFILE in the directory request.nodeid; the umask is already applied to mode."""
