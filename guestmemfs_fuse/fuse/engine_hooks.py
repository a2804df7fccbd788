"""The relay's hooks, answered by the engine: what pyfuse3 has no handler for.

Called by the relay; built by the daemon.
"""

from __future__ import annotations

import stat
from typing import Final

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.errors import InvalidCallError, NoDataThereError
from guestmemfs_fuse.core.lookup import inode_of
from guestmemfs_fuse.core.types import Ino
from guestmemfs_fuse.engine.engine import Engine
from guestmemfs_fuse.fuse.attributes import attributes_of
from guestmemfs_fuse.fuse.hooks import Request, TmpfileReply

_OFFSET_MAX: Final = (1 << 63) - 1
"""An offset is signed for the caller and unsigned in struct fuse_lseek_in."""


class EngineHooks:
    """Implements fuse/hooks.RelayHooks over an Engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def backing_for(self, nodeid: int) -> int | None:
        """See RelayHooks.backing_for."""
        return self._engine.backings.of(nodeid)

    def forget(self, nodeids: list[int]) -> None:
        """See RelayHooks.forget."""
        self._engine.orphans.forgotten(nodeids)

    def interrupt(self, unique: int) -> None:
        """See RelayHooks.interrupt."""
        self._engine.memory.interrupt(unique)

    async def fallocate(self, request: Request, fh: int, offset: int, length: int, mode: int) -> None:
        """See RelayHooks.fallocate."""
        await self._engine.memory.fallocate(Ino(request.nodeid), mode, offset, length, request)

    async def lseek(self, request: Request, offset: int, whence: int) -> int:
        """See RelayHooks.lseek."""
        inode = inode_of(self._engine.state, Ino(request.nodeid))
        if not inode.is_file:
            raise InvalidCallError()
        if offset > _OFFSET_MAX:
            raise NoDataThereError("before the start")
        return self._engine.region.seek(inode, offset, whence)

    async def tmpfile(self, request: Request, mode: int, flags: int, umask: int) -> TmpfileReply:
        """See RelayHooks.tmpfile: a regular file that is an orphan from the start."""
        self._engine.check_opening(flags)
        command = cmd.Make(
            Ino(request.nodeid), b"", stat.S_IFREG | stat.S_IMODE(mode), request.uid, request.gid
        )
        ino = self._engine.make(command, request, opened=True)
        self._engine.orphans.expected(ino)
        try:
            inode = inode_of(self._engine.state, ino)
            return TmpfileReply(attributes_of(inode, self._engine.region), ino)
        except BaseException:
            self._engine.orphans.forgotten([ino])  # the caller gets an error: nobody will ever have it
            raise
