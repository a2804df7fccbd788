"""The filesystem as pyfuse3 calls it: decode, ask the engine, reply. No rules are made here.

Only FUSEError may leave a handler (anything else ends the mount), so every handler is wrapped: domain
errors become their errno, a bug becomes EIO and a logged traceback. File handles are inode numbers: they
mean the same to the next daemon.

`ctx.pid` is not a pid: the relay put its token there, by which it knows the request's unique, so that a
request the kernel sends again after a crash is not done twice.
"""

from __future__ import annotations

import errno
import functools
import logging
import stat
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ParamSpec, TypeVar

import pyfuse3
import trio

from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.errors import (
    AttributeUnsupportedError,
    BusyFsError,
    FsError,
    InvalidCallError,
    NoAttributeError,
)
from guestmemfs_fuse.core.lookup import directory_of, inode_of
from guestmemfs_fuse.core.types import NO_REQUEST, Ino
from guestmemfs_fuse.engine.engine import Engine
from guestmemfs_fuse.engine.ledger import Origin
from guestmemfs_fuse.fuse.attributes import attributes_of, listed_attributes_of, looked_up, statfs_of
from guestmemfs_fuse.fuse.errno_map import errno_of

log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


def _replies(handler: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
    """Let nothing but FUSEError out of a handler."""

    @functools.wraps(handler)
    async def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await handler(*args, **kwargs)
        except FsError as error:
            raise pyfuse3.FUSEError(errno_of(error)) from None
        except (pyfuse3.FUSEError, trio.Cancelled):
            raise
        except Exception:
            log.exception("%s failed", handler.__name__)
            raise pyfuse3.FUSEError(errno.EIO) from None

    return wrapper


class GuestOperations(pyfuse3.Operations):
    """pyfuse3's handlers, each a few lines."""

    def __init__(self, engine: Engine, origin_of: Callable[[int], Origin | None]) -> None:
        super().__init__()
        self._engine = engine
        self._origin_of = origin_of

    def _origin(self, ctx: pyfuse3.RequestContext) -> Origin | None:
        origin = self._origin_of(ctx.pid)
        return origin if origin is not None and origin.unique != NO_REQUEST else None

    def _attributes(self, ino: int) -> pyfuse3.EntryAttributes:
        return attributes_of(inode_of(self._engine.state, Ino(ino)), self._engine.region)

    # -- names ----------------------------------------------------------------------------------------

    @_replies
    async def lookup(self, parent_inode: int, name: bytes, ctx: Any) -> pyfuse3.EntryAttributes:
        return looked_up(self._engine.state, self._engine.region, Ino(parent_inode), name)

    @_replies
    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        command = cmd.Make(Ino(parent_inode), name, mode, ctx.uid, ctx.gid, rdev)
        return self._attributes(self._engine.make(command, self._origin(ctx)))

    @_replies
    async def mkdir(self, parent_inode: int, name: bytes, mode: int, ctx: Any) -> pyfuse3.EntryAttributes:
        command = cmd.Make(Ino(parent_inode), name, mode, ctx.uid, ctx.gid)
        return self._attributes(self._engine.make(command, self._origin(ctx)))

    @_replies
    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        command = cmd.Make(Ino(parent_inode), name, stat.S_IFLNK | 0o777, ctx.uid, ctx.gid, target=target)
        return self._attributes(self._engine.make(command, self._origin(ctx)))

    @_replies
    async def readlink(self, inode: int, ctx: Any) -> bytes:
        found = inode_of(self._engine.state, Ino(inode))
        if not stat.S_ISLNK(found.mode):
            raise InvalidCallError("not a symbolic link")
        return found.target

    @_replies
    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        command = cmd.Link(Ino(inode), Ino(new_parent_inode), new_name)
        return self._attributes(self._engine.change(command, self._origin(ctx)))

    @_replies
    async def unlink(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        self._engine.change(cmd.Unlink(Ino(parent_inode), name), self._origin(ctx))

    @_replies
    async def rmdir(self, parent_inode: int, name: bytes, ctx: Any) -> None:
        self._engine.change(cmd.Rmdir(Ino(parent_inode), name), self._origin(ctx))

    @_replies
    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: Any,
    ) -> None:
        command = cmd.Rename(Ino(parent_inode_old), name_old, Ino(parent_inode_new), name_new, flags)
        self._engine.change(command, self._origin(ctx))

    # -- directories ----------------------------------------------------------------------------------

    @_replies
    async def opendir(self, inode: int, ctx: Any) -> int:
        directory_of(self._engine.state, Ino(inode))
        return inode

    @_replies
    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Offsets are cookies (see core/state.Directory); 1 and 2 are `.` and `..`."""
        state = self._engine.state
        directory = directory_of(state, Ino(fh))
        for cookie, name, ino in ((1, b".", Ino(fh)), (2, b"..", directory.parent)):
            if cookie > start_id and not pyfuse3.readdir_reply(token, name, self._attributes(ino), cookie):
                return
        for cookie, name, ino in directory.after(start_id):
            entry = listed_attributes_of(state.inodes[ino], self._engine.region)
            if not pyfuse3.readdir_reply(token, name, entry, cookie):
                return

    @_replies
    async def releasedir(self, fh: int) -> None:
        return

    @_replies
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        return

    # -- files ----------------------------------------------------------------------------------------

    @_replies
    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: Any
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        self._engine.check_opening(flags)
        command = cmd.Make(Ino(parent_inode), name, stat.S_IFREG | mode, ctx.uid, ctx.gid)
        ino = self._engine.make(command, self._origin(ctx), opened=True)
        return _file_info(ino), self._attributes(ino)

    @_replies
    async def open(self, inode: int, flags: int, ctx: Any) -> pyfuse3.FileInfo:
        found = inode_of(self._engine.state, Ino(inode))
        if found.mark and not self._engine.may_open_saved(found.ino):
            raise BusyFsError("the file holds a saved guest")
        self._engine.check_opening(flags)
        self._engine.backings.ensure(found.ino)
        return _file_info(found.ino)

    @_replies
    async def release(self, fh: int) -> None:
        return

    @_replies
    async def flush(self, fh: int) -> None:
        return

    @_replies
    async def fsync(self, fh: int, datasync: bool) -> None:
        return

    @_replies
    async def read(self, fh: int, off: int, size: int) -> bytes:
        raise InvalidCallError("data is reached by mmap only")

    @_replies
    async def write(self, fh: int, off: int, buf: bytes) -> int:
        raise InvalidCallError("data is reached by mmap only")

    # -- attributes -----------------------------------------------------------------------------------

    @_replies
    async def getattr(self, inode: int, ctx: Any) -> pyfuse3.EntryAttributes:
        return self._attributes(inode)

    @_replies
    async def setattr(
        self, inode: int, attr: Any, fields: Any, fh: int | None, ctx: Any
    ) -> pyfuse3.EntryAttributes:
        origin, ino = self._origin(ctx), Ino(inode)
        if fields.update_size:
            await self._engine.memory.resize(ino, attr.st_size, origin)
        command = cmd.SetAttrs(
            ino,
            mode=attr.st_mode if fields.update_mode else None,
            uid=attr.st_uid if fields.update_uid else None,
            gid=attr.st_gid if fields.update_gid else None,
            atime_ns=attr.st_atime_ns if fields.update_atime else None,
            mtime_ns=attr.st_mtime_ns if fields.update_mtime else None,
        )
        if command != cmd.SetAttrs(ino) or not fields.update_size:
            # The request's number stands for the size, which was set first: behind it, attributes are set
            # again when the request comes again, which is harmless.
            self._engine.change(command, None if fields.update_size else origin)
        return self._attributes(inode)

    @_replies
    async def statfs(self, ctx: Any) -> pyfuse3.StatvfsData:
        await self._engine.orphans.reap()
        return statfs_of(self._engine.state, self._engine.region)

    @_replies
    async def access(self, inode: int, mode: int, ctx: Any) -> bool:
        return True  # default_permissions: the kernel has decided

    # -- extended attributes --------------------------------------------------------------------------

    @_replies
    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: Any) -> None:
        self._engine.change(cmd.SetXattr(Ino(inode), name, value), self._origin(ctx))

    @_replies
    async def getxattr(self, inode: int, name: bytes, ctx: Any) -> bytes:
        """Also called by pyfuse3 before setxattr, for XATTR_CREATE and XATTR_REPLACE.

        If that setxattr was done by the daemon before us, error 0 makes pyfuse3 answer it with success.
        """
        if self._engine.ledger.already_done(self._origin(ctx)) is not None:
            raise pyfuse3.FUSEError(0)
        if not name.startswith(b"user."):
            raise AttributeUnsupportedError()
        value = (inode_of(self._engine.state, Ino(inode)).xattrs or {}).get(name)
        if value is None:
            raise NoAttributeError()
        return value

    @_replies
    async def listxattr(self, inode: int, ctx: Any) -> Sequence[bytes]:
        return list(inode_of(self._engine.state, Ino(inode)).xattrs or {})

    @_replies
    async def removexattr(self, inode: int, name: bytes, ctx: Any) -> None:
        self._engine.change(cmd.RemoveXattr(Ino(inode), name), self._origin(ctx))


def _file_info(ino: Ino) -> pyfuse3.FileInfo:
    """An open reply; the relay adds passthrough and the backing id. keep_cache would make open fail."""
    return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(ino), direct_io=True, keep_cache=False)
