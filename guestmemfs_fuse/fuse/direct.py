"""Calls answered without libfuse: the frequent ones that never wait.

The way through the socketpair, libfuse and pyfuse3 and back is 20 us, a quarter of what a stat past all
caches takes. LOOKUP stands in front of every create and rename, too. What is answered is what fuse/operations
answers, by the same functions, and tests compare the two byte by byte; every other call goes that way.

Owns nothing but a reference to the engine. Called by the relay; built by the daemon.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.lookup import inode_of
from guestmemfs_fuse.core.types import Ino
from guestmemfs_fuse.engine.engine import Engine
from guestmemfs_fuse.fuse import wire
from guestmemfs_fuse.fuse.abi import Opcode
from guestmemfs_fuse.fuse.attributes import attributes_of, looked_up
from guestmemfs_fuse.fuse.hooks import Request
from guestmemfs_fuse.fuse.wire import Buffer

_DONE: Final = 0


class DirectCalls:
    """Turns such a request into its reply, at once."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.by_opcode: dict[int, Callable[[Request, int, Buffer], bytes]] = {
            Opcode.LOOKUP.value: self._lookup,
            Opcode.GETATTR.value: self._getattr,
            Opcode.UNLINK.value: self._unlink,
            Opcode.RENAME.value: self._rename,
        }

    def _lookup(self, request: Request, raw_unique: int, message: Buffer) -> bytes:
        name = wire.name_of(message)
        return wire.entry_reply(
            raw_unique, looked_up(self._engine.state, self._engine.region, Ino(request.nodeid), name)
        )

    def _getattr(self, request: Request, raw_unique: int, message: Buffer) -> bytes:
        inode = inode_of(self._engine.state, Ino(request.nodeid))
        return wire.attr_reply(raw_unique, attributes_of(inode, self._engine.region))

    def _unlink(self, request: Request, raw_unique: int, message: Buffer) -> bytes:
        self._engine.change(cmd.Unlink(Ino(request.nodeid), wire.name_of(message)), request)
        return wire.error_reply(raw_unique, _DONE)

    def _rename(self, request: Request, raw_unique: int, message: Buffer) -> bytes:
        new_parent, name, new_name = wire.rename_request(message)
        self._engine.change(cmd.Rename(Ino(request.nodeid), name, Ino(new_parent), new_name), request)
        return wire.error_reply(raw_unique, _DONE)
