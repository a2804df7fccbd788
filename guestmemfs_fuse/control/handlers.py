"""The operations of the control socket: decode arguments, ask the engine, answer plain values.

Arguments come from root, but from any version of the command line: a wrong one is a UsageError, never a
traceback. Names and results are the contract between CLI and daemon (docs/cli.md shows the JSON).

Called by control/server; the daemon adds the operations that concern itself (ping, restart).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, TypeVar

import trio

from guestmemfs_fuse.control.protocol import Packed, pack_each
from guestmemfs_fuse.control.server import Handler, Progress
from guestmemfs_fuse.core import commands as cmd
from guestmemfs_fuse.core.errors import UsageError
from guestmemfs_fuse.core.lookup import inode_of
from guestmemfs_fuse.core.state import Inode
from guestmemfs_fuse.core.types import Ino, round_up
from guestmemfs_fuse.engine import listing, picture, report
from guestmemfs_fuse.engine.engine import Engine
from guestmemfs_fuse.engine.listing import Listing
from guestmemfs_fuse.engine.poison import Poisoned
from guestmemfs_fuse.linux.users import Dev
from guestmemfs_fuse.region.base import Region

Args = Mapping[str, object]

_TELL_EVERY_S = 0.25
T = TypeVar("T")


def argument(args: Args, name: str, kind: type[T]) -> T:
    """One argument of the right type. Raises UsageError."""
    value = args.get(name)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise UsageError(f"argument {name} must be {kind.__name__}")
    return value


def _packed_rows(
    listed: Listing, devices: list[Dev], region: Region, poisoned: Poisoned
) -> tuple[Packed, report.Report]:
    """Blocks. Files and huge pages of `status`."""
    tally = report.HugeTally()
    rows = report.rows(listing.in_order(listed), devices, region, poisoned)
    return pack_each(tally.over(rows)), tally.figures()


def _packed_picture(listed: Listing, region: Region) -> Packed:
    """Blocks. Files of `map TARGET`."""
    return pack_each(picture.files(listing.in_order(listed), region))


class Handlers:
    """The operations that are about the filesystem."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def table(self) -> dict[str, Handler]:
        """Operation name to handler."""
        return {
            "map": self.map,
            "pin": self.pin,
            "mark": self.mark,
            "freeze": self.freeze,
            "thaw": self.thaw,
            "resize_file": self.resize_file,
            "layout": self.layout,
            "picture": self.picture,
            "fsck": self.fsck,
        }

    async def report(self) -> dict[str, Any]:
        """The part of `status` that is about region and files."""
        engine = self._engine
        await engine.orphans.reap()
        poisoned = await engine.poison.look()
        listed, devices = await listing.gathered(engine.ledger), report.devices_of(engine.state)
        files, huge = await trio.to_thread.run_sync(_packed_rows, listed, devices, engine.region, poisoned)
        return {
            "region": report.region_figures(engine.state, engine.region),
            "huge": huge,
            "files": files,
        }

    async def map(self, args: Args, progress: Progress) -> object:
        """{path} -> one file: memory, extents, users."""
        path = argument(args, "path", str)
        engine = self._engine
        inode = report.resolve(engine.state, path)
        if not inode.is_file:
            raise UsageError(f"{path} is no regular file", hint="only regular files have memory")
        poisoned = await engine.poison.look()
        devices = report.devices_of(engine.state)
        return await trio.to_thread.run_sync(report.measured, path, inode, devices, engine.region, poisoned)

    async def picture(self, args: Args, progress: Progress) -> object:
        """{} -> the whole region: who has which part of it."""
        engine = self._engine
        listed = await listing.gathered(engine.ledger)
        space = picture.space(engine.state, engine.region)
        return {**space, "files": await trio.to_thread.run_sync(_packed_picture, listed, engine.region)}

    async def pin(self, args: Args, progress: Progress) -> object:
        """{path, pinned}."""
        inode = report.resolve(self._engine.state, argument(args, "path", str))
        self._engine.change(cmd.Pin(inode.ino, argument(args, "pinned", bool)))
        return {"pinned": inode.pinned}

    async def mark(self, args: Args, progress: Progress) -> object:
        """{path, mark: text or "", openable: bool} -> {mark, before}: a file holds a saved guest, or not."""
        inode = report.resolve(self._engine.state, argument(args, "path", str))
        before = os.fsdecode(inode.mark)
        self._engine.change(cmd.Mark(inode.ino, os.fsencode(argument(args, "mark", str))))
        self._engine.allow_restore(inode.ino, argument(args, "openable", bool))
        return {"mark": os.fsdecode(inode.mark), "before": before}

    async def freeze(self, args: Args, progress: Progress) -> object:
        """{} -> returns once nothing more will change."""
        await self._engine.freeze()
        return {"frozen": True}

    async def thaw(self, args: Args, progress: Progress) -> object:
        """{} -> modifications work again."""
        self._engine.thaw()
        return {"frozen": False}

    async def resize_file(self, args: Args, progress: Progress) -> object:
        """{path, size_bytes, force} -> truncate, also what is pinned or mapped. Tells {done, total}."""
        inode = report.resolve(self._engine.state, argument(args, "path", str))
        size_bytes, force = argument(args, "size_bytes", int), argument(args, "force", bool)
        async with trio.open_nursery() as nursery:
            if size_bytes > inode.size_bytes:
                nursery.start_soon(self._tell_growth, inode, size_bytes, progress)
            await self._engine.memory.resize(inode.ino, size_bytes, force=force)
            nursery.cancel_scope.cancel()
        self._engine.kernel.invalidate_inode(inode.ino)
        return {"size_bytes": inode.size_bytes}

    async def _tell_growth(self, inode: Inode, size_bytes: int, progress: Progress) -> None:
        """How much memory a file has that is being grown, as the kernel counts it; runs for ever."""
        region = self._engine.region
        total_bytes = round_up(size_bytes, region.block_bytes)
        while True:
            await trio.sleep(_TELL_EVERY_S)
            stat = await trio.to_thread.run_sync(region.stat, inode)
            await progress({"done": min(stat.allocated_bytes, total_bytes), "total": total_bytes})

    async def layout(self, args: Args, progress: Progress) -> object:
        """{ino} -> where the launcher finds the file's bytes (redirect/layout.py)."""
        inode = inode_of(self._engine.state, Ino(argument(args, "ino", int)))
        layout = self._engine.region.layout(inode)
        # A kind that can have passthrough has none on a kernel that cannot (before 6.9): the launcher must
        # know which of the two it is.
        can = self._engine.kernel.has_passthrough
        return {**layout, "passthrough": bool(layout["passthrough"]) and can}

    async def fsck(self, args: Args, progress: Progress) -> object:
        """{repair} -> what is wrong between metadata and region (engine/fsck.Result.as_plain)."""
        from guestmemfs_fuse.engine import fsck_online  # not needed in the life of most daemons

        def tick(done: int, total: int) -> None:
            trio.from_thread.run(progress, {"done": done, "total": total})

        result = await fsck_online.check(self._engine, repair=argument(args, "repair", bool), tick=tick)
        return result.as_plain()
