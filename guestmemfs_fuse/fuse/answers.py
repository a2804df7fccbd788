"""The requests that never reach libfuse, because it has no handler for them or must not see them.

Or does not have to: the way through libfuse and back is 20 us. Three kinds: answered at once, from the state
(direct.py) or the same whatever that is; taken note of without an answer; and answered by a hook in a task of
its own. Owns nothing but references. Called by the relay only.
"""

from __future__ import annotations

import errno
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from guestmemfs_fuse.fuse import abi, wire
from guestmemfs_fuse.fuse.abi import Opcode
from guestmemfs_fuse.fuse.hooks import RelayHooks, Request
from guestmemfs_fuse.fuse.inflight import InFlight
from guestmemfs_fuse.fuse.wire import Buffer

# Data does not pass through Python: mmap reaches it. COPY_FILE_RANGE must not answer EOPNOTSUPP, at which the
# kernel would fall back to splice. Nothing is synced: acknowledged metadata is stored already. Nothing is
# closed: no state hangs on an open file, and a failed open gets its RELEASE, too.
_ALWAYS: Final[Mapping[int, int]] = {
    Opcode.READ.value: errno.EINVAL,
    Opcode.WRITE.value: errno.EINVAL,
    Opcode.COPY_FILE_RANGE.value: errno.EINVAL,
    Opcode.COPY_FILE_RANGE_64.value: errno.EINVAL,
    Opcode.SYNCFS.value: 0,
    Opcode.FSYNC.value: 0,
    Opcode.FSYNCDIR.value: 0,
    Opcode.FLUSH.value: 0,
    Opcode.RELEASE.value: 0,
    Opcode.RELEASEDIR.value: 0,
}
_GETXATTR: Final = Opcode.GETXATTR.value

NOTED: Final = frozenset({Opcode.FORGET.value, Opcode.BATCH_FORGET.value, Opcode.INTERRUPT.value})

Work = Callable[[], Awaitable[bytes]]


DirectAnswer = Callable[[Request, int, Buffer], bytes]
"""(request, raw unique, message) -> reply. Raises FsError to refuse, and WireError."""


class Answers:
    """Turn a request into a hook call, and its result into a reply."""

    def __init__(self, hooks: RelayHooks, direct: Mapping[int, DirectAnswer]) -> None:
        self._hooks = hooks
        self._direct = direct
        self._starters: dict[int, Callable[[InFlight, Buffer], Work]] = {
            Opcode.FALLOCATE.value: self._fallocate,
            Opcode.LSEEK.value: self._lseek,
            Opcode.TMPFILE.value: self._tmpfile,
        }
        self.opcodes = frozenset(self._starters)

    def note(self, opcode: int, message: Buffer) -> None:
        """Tell the hooks of a forget or an interrupt. Raises what the hooks raise, and WireError."""
        if opcode == Opcode.INTERRUPT:
            self._hooks.interrupt(wire.interrupted_unique(message) & ~abi.UNIQUE_RESEND)
        else:
            self._hooks.forget(wire.forgotten_nodeids(message))

    def at_once(self, entry: InFlight, message: Buffer) -> bytes | None:
        """The reply to a request that nobody has to wait for; None for all others.

        Before each truncate the kernel asks for security.capability (cap_inode_need_killpriv), and nothing
        but user.* exists here. Raises what a direct answer raises.
        """
        direct = self._direct.get(entry.opcode)
        if direct is not None:
            return direct(entry.request, entry.raw_unique, message)
        number = _ALWAYS.get(entry.opcode)
        if entry.opcode == _GETXATTR and not wire.is_user_attribute(message):
            number = errno.EOPNOTSUPP
        return None if number is None else wire.error_reply(entry.raw_unique, number)

    def start(self, entry: InFlight, message: Buffer) -> Work:
        """Read the message now (its buffer is used again), return what is to be awaited for the reply."""
        return self._starters[entry.opcode](entry, message)

    def _fallocate(self, entry: InFlight, message: Buffer) -> Work:
        fh, offset, length, mode = wire.fallocate_request(message)

        async def work() -> bytes:
            await self._hooks.fallocate(entry.request, fh, offset, length, mode)
            return wire.error_reply(entry.raw_unique, 0)

        return work

    def _lseek(self, entry: InFlight, message: Buffer) -> Work:
        _, offset, whence = wire.lseek_request(message)

        async def work() -> bytes:
            found = await self._hooks.lseek(entry.request, offset, whence)
            return wire.lseek_reply(entry.raw_unique, found)

        return work

    def _tmpfile(self, entry: InFlight, message: Buffer) -> Work:
        flags, mode, umask = wire.tmpfile_request(message)

        async def work() -> bytes:
            made = await self._hooks.tmpfile(entry.request, mode, flags, umask)
            backing_id = self._hooks.backing_for(made.attributes.st_ino)
            return wire.created_reply(entry.raw_unique, made.attributes, made.fh, backing_id)

        return work
