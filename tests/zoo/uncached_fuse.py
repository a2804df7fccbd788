"""A FUSE filesystem without any caching: every step of every path asks its daemon.

    python tests/zoo/uncached_fuse.py MOUNTPOINT

It has one directory, `d`, and serves until it is unmounted.
"""

from __future__ import annotations

import errno
import stat
import sys

import pyfuse3
import trio

DIRECTORY = b"d"


class Uncached(pyfuse3.Operations):
    """Two directories that nobody may remember."""

    async def getattr(
        self, inode: pyfuse3.InodeT, ctx: pyfuse3.RequestContext | None = None
    ) -> pyfuse3.EntryAttributes:
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = inode
        entry.st_mode = pyfuse3.ModeT(stat.S_IFDIR | 0o755)
        entry.st_nlink = 1
        entry.entry_timeout = entry.attr_timeout = 0
        return entry

    async def lookup(
        self,
        parent_inode: pyfuse3.InodeT,
        name: pyfuse3.FileNameT,
        ctx: pyfuse3.RequestContext | None = None,
    ) -> pyfuse3.EntryAttributes:
        if name != DIRECTORY:
            raise pyfuse3.FUSEError(errno.ENOENT)
        return await self.getattr(pyfuse3.InodeT(pyfuse3.ROOT_INODE + 1))

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        return pyfuse3.StatvfsData()


def main() -> None:
    pyfuse3.init(Uncached(), sys.argv[1], {*pyfuse3.default_options, "fsname=uncached"})
    trio.run(pyfuse3.main)
    pyfuse3.close(unmount=False)


if __name__ == "__main__":
    main()
