"""A filesystem in a process of its own, to be killed and replaced: one file on a tmpfs, behind the real
channel.

Run as `python -m tests.mount.channel_server FUSE_FD BACKING_DIR [--resume HEX_OF_INIT] [--pump]`. It tells
what happens as lines of JSON on stdout, and obeys lines on stdin: `drain`, `release` (what waits goes on),
`statistics`.

/ram is backed by BACKING_DIR/ram; looking up "stuck" waits for `release`, as does fallocate with
FALLOC_FL_KEEP_SIZE.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import stat
import sys
from dataclasses import asdict

import pyfuse3
import trio

from guestmemfs_fuse.core.errors import InterruptedFsError, NoDataThereError
from guestmemfs_fuse.fuse import device, session
from guestmemfs_fuse.fuse.hooks import Request, TmpfileReply
from guestmemfs_fuse.fuse.relay import Relay

RAM_INO = 2
FALLOC_FL_KEEP_SIZE = 1


def tell(event: str, **values: object) -> None:
    print(json.dumps({"event": event, **values}), flush=True)


class Files:
    """The inodes: number to backing descriptor. Also the relay's hooks."""

    def __init__(self, fuse_fd: int, backing_dir: str) -> None:
        self.fuse_fd = fuse_fd
        self.backing_dir = backing_dir
        self.fds = {RAM_INO: os.open(f"{backing_dir}/ram", os.O_RDWR | os.O_CLOEXEC)}
        self.ids: dict[int, int] = {}
        self.release = trio.Event()
        self.waiting: dict[int, trio.CancelScope] = {}

    def attributes(self, ino: int) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = pyfuse3.InodeT(ino)
        entry.entry_timeout = entry.attr_timeout = 0
        if ino == pyfuse3.ROOT_INODE:
            entry.st_mode = pyfuse3.ModeT(stat.S_IFDIR | 0o755)
            entry.st_nlink = 2
            return entry
        status = os.fstat(self.fds[ino])
        entry.st_mode = pyfuse3.ModeT(stat.S_IFREG | 0o644)
        entry.st_nlink = 1 if ino == RAM_INO else 0
        entry.st_size = status.st_size
        entry.st_blocks = status.st_blocks
        return entry

    # -- hooks

    def backing_for(self, nodeid: int) -> int | None:
        if nodeid not in self.ids:
            self.ids[nodeid] = device.backing_open(self.fuse_fd, self.fds[nodeid])
        return self.ids[nodeid]

    def forget(self, nodeids: list[int]) -> None:
        tell("forget", nodeids=nodeids)

    def interrupt(self, unique: int) -> None:
        tell("interrupt", unique=unique)
        if unique in self.waiting:
            self.waiting[unique].cancel()

    async def fallocate(self, request: Request, fh: int, offset: int, length: int, mode: int) -> None:
        tell("fallocate", unique=request.unique, offset=offset, length=length, mode=mode, pid=request.pid)
        if mode & FALLOC_FL_KEEP_SIZE:
            with trio.CancelScope() as self.waiting[request.unique]:
                await self.release.wait()
            if self.waiting.pop(request.unique).cancelled_caught:
                raise InterruptedFsError()
        os.posix_fallocate(self.fds[request.nodeid], offset, length)

    async def lseek(self, request: Request, offset: int, whence: int) -> int:
        tell("lseek", offset=offset, whence=whence)
        try:
            return os.lseek(self.fds[request.nodeid], offset, whence)
        except OSError as error:
            raise NoDataThereError() from error

    async def tmpfile(self, request: Request, mode: int, flags: int, umask: int) -> TmpfileReply:
        tell("tmpfile", mode=mode, flags=flags, parent=request.nodeid)
        ino = max(self.fds) + 1
        self.fds[ino] = os.open(self.backing_dir, os.O_TMPFILE | os.O_RDWR, 0o600)
        return TmpfileReply(self.attributes(ino), ino)


class Ops(pyfuse3.Operations):
    """As little as the tests need."""

    supports_dot_lookup = False

    def __init__(self, files: Files) -> None:
        super().__init__()
        self.files = files
        self.xattrs: dict[tuple[int, bytes], bytes] = {}
        self.relay: Relay

    async def lookup(
        self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        if name == b"stuck":
            request = self.relay.find_request(ctx.pid)
            assert request is not None
            tell("stuck", unique=request.unique, resent=request.resent, pid=request.pid)
            await self.files.release.wait()
        elif name != b"ram":
            raise pyfuse3.FUSEError(errno.ENOENT)
        return self.files.attributes(RAM_INO)

    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        return self.files.attributes(inode)

    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        if fields.update_size:
            tell("resize", size=attr.st_size)
            os.ftruncate(self.files.fds[inode], attr.st_size)
        return self.files.attributes(inode)

    async def open(self, inode: int, flags: int, ctx: pyfuse3.RequestContext) -> pyfuse3.FileInfo:
        tell("open", truncates=bool(flags & os.O_TRUNC))
        return pyfuse3.FileInfo(fh=pyfuse3.FileHandleT(inode))

    async def setxattr(self, inode: int, name: bytes, value: bytes, ctx: pyfuse3.RequestContext) -> None:
        self.xattrs[inode, name] = value

    async def getxattr(self, inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> bytes:
        if (inode, name) not in self.xattrs:
            raise pyfuse3.FUSEError(errno.ENODATA)
        return self.xattrs[inode, name]


async def obey(files: Files, relay: Relay) -> None:
    """Commands of the test, one a line, each in a task of its own."""

    async def drain() -> None:
        tell("drained", left=await relay.drain(timeout_s=5))

    stdin = trio.lowlevel.FdStream(os.dup(0))
    async with trio.open_nursery() as nursery:
        while commands := await stdin.receive_some(100):
            for command in commands.split():
                if command == b"drain":
                    nursery.start_soon(drain)
                elif command == b"release":
                    files.release.set()
                    files.release = trio.Event()
                elif command == b"statistics":
                    tell("statistics", **asdict(relay.statistics()))


async def main(fuse_fd: int, backing_dir: str, init: bytes | None, pump: bool) -> None:
    files = Files(fuse_fd, backing_dir)
    ops = Ops(files)
    relay = ops.relay = Relay(fuse_fd, files)
    pump = pump or not session.attach(relay)
    pyfuse3.init(ops, relay.session_path, set())

    async def serve() -> None:
        tell("ended", reason=(await relay.run(pump=pump)).value)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        nursery.start_soon(pyfuse3.main)
        if init is None:
            tell("init", request=(await relay.start_fresh()).hex(), flags=relay.statistics().init_flags)
        else:
            await relay.resume(init)
            tell("resumed", resend=relay.statistics().resend_supported)
        await obey(files, relay)
    pyfuse3.close(unmount=False)
    relay.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("fuse_fd", type=int)
    parser.add_argument("backing_dir")
    parser.add_argument("--resume", type=bytes.fromhex)
    parser.add_argument("--pump", action="store_true")
    options = parser.parse_args()
    trio.run(main, options.fuse_fd, options.backing_dir, options.resume, options.pump)
    sys.exit(0)
