"""FUSE messages, bytes in and values out: what the relay reads in them and what it answers itself.

Owns no state and does no I/O. Invariants: any bytes at all either parse or raise WireError, never
struct.error or IndexError; patching happens in place and never changes a message's length. Called by the
relay only; the INIT exchange is in negotiate.py, notifications are in notify.py.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, Protocol

from guestmemfs_fuse.core.errors import GuestmemfsError
from guestmemfs_fuse.fuse import abi

Buffer = bytes | bytearray | memoryview
MutableBuffer = bytearray | memoryview

_MAX_ERRNO = 511  # fuse_dev_do_write() refuses more
_NS_PER_S = 1_000_000_000
_USER = b"user."
# Plain numbers: ~ of an IntFlag keeps the bits that are named in it, and no others.
_ATIME, _ATIME_NOW = abi.SetAttr.ATIME.value, abi.SetAttr.ATIME_NOW.value
_MTIME, _MTIME_NOW = abi.SetAttr.MTIME.value, abi.SetAttr.MTIME_NOW.value
_UNCACHED = abi.OpenFlag.DIRECT_IO | abi.OpenFlag.NOFLUSH


class WireError(GuestmemfsError):
    """A FUSE message does not have the shape its kind demands."""


class RequestHeader(NamedTuple):
    """struct fuse_in_header without its paddings; unique is raw, bit 63 included."""

    length: int
    opcode: int
    unique: int
    nodeid: int
    uid: int
    gid: int
    pid: int


class ReplyHeader(NamedTuple):
    """struct fuse_out_header; error is 0 or a negative errno."""

    length: int
    error: int
    unique: int


class Attributes(Protocol):
    """What an entry reply carries; pyfuse3.EntryAttributes has exactly these."""

    st_ino: int
    generation: int
    entry_timeout: float
    attr_timeout: float
    st_mode: int
    st_nlink: int
    st_uid: int
    st_gid: int
    st_rdev: int
    st_size: int
    st_blksize: int
    st_blocks: int
    st_atime_ns: int
    st_mtime_ns: int
    st_ctime_ns: int


class Fallocate(NamedTuple):
    fh: int
    offset: int
    length: int
    mode: int


class Lseek(NamedTuple):
    fh: int
    offset: int
    whence: int


class Rename(NamedTuple):
    new_parent: int
    name: bytes
    new_name: bytes


class Tmpfile(NamedTuple):
    flags: int
    mode: int
    umask: int


def request_header(message: Buffer) -> RequestHeader:
    """Read a request's header; WireError unless the message is as long as it says."""
    if len(message) < abi.IN_HEADER.size:
        raise WireError(f"a request of {len(message)} bytes has no room for its header")
    header = RequestHeader._make(abi.IN_HEADER.unpack_from(message)[:7])
    if header.length != len(message):
        raise WireError(f"a request of {len(message)} bytes says it has {header.length}")
    return header


def reply_header(message: Buffer) -> ReplyHeader:
    """Read a reply's header; WireError unless the message is as long as it says."""
    if len(message) < abi.OUT_HEADER.size:
        raise WireError(f"a reply of {len(message)} bytes has no room for its header")
    header = ReplyHeader._make(abi.OUT_HEADER.unpack_from(message))
    if header.length != len(message):
        raise WireError(f"a reply of {len(message)} bytes says it has {header.length}")
    return header


def stamp(message: MutableBuffer, token: int) -> None:
    """Put a token where the kernel wrote the caller's pid: pyfuse3's ctx.pid, a signed 32 bit number."""
    if not 0 < token < 1 << 31:
        raise WireError(f"token {token} does not fit a pid")
    if len(message) < abi.IN_HEADER.size:
        raise WireError(f"a request of {len(message)} bytes has no room for a token")
    abi.PID.pack_into(message, abi.IN_HEADER_PID_OFFSET, token)


def leave_now_to_us(message: MutableBuffer) -> None:
    """Take the kernel's idea of now out of a SETATTR request that sets a time to now.

    It comes from the kernel's coarse clock, up to a tick behind the clock that stamps all else here: a file
    touched right after it was made would become older. The kernel says both "this time" and "now"
    (iattr_to_fattr, fs/fuse/dir.c), pyfuse3 prefers the first, and takes our clock when only the other is
    there. A message too short is left to libfuse.
    """
    at = abi.IN_HEADER.size
    if len(message) < at + abi.SETATTR_VALID.size:
        return
    valid = abi.SETATTR_VALID.unpack_from(message, at)[0]
    if valid & _ATIME_NOW:
        valid &= ~_ATIME
    if valid & _MTIME_NOW:
        valid &= ~_MTIME
    abi.SETATTR_VALID.pack_into(message, at, valid)


# -- requests the relay answers itself ----------------------------------------------------------------


def _arguments(layout: struct.Struct, message: Buffer, what: str) -> tuple[int, ...]:
    if len(message) < abi.IN_HEADER.size + layout.size:
        raise WireError(f"a {what} request of {len(message)} bytes is too short")
    return layout.unpack_from(message, abi.IN_HEADER.size)


def fallocate_request(message: Buffer) -> Fallocate:
    """struct fuse_fallocate_in; offset and length in bytes, mode as in fallocate(2)."""
    return Fallocate._make(_arguments(abi.FALLOCATE_IN, message, "FALLOCATE"))


def lseek_request(message: Buffer) -> Lseek:
    """struct fuse_lseek_in; the kernel sends only SEEK_DATA and SEEK_HOLE (fuse_file_llseek)."""
    return Lseek._make(_arguments(abi.LSEEK_IN, message, "LSEEK"))


def tmpfile_request(message: Buffer) -> Tmpfile:
    """struct fuse_create_in of a TMPFILE; the name behind it is made up by the kernel and means nothing."""
    flags, mode, umask, _ = _arguments(abi.CREATE_IN, message, "TMPFILE")
    return Tmpfile(flags, mode, umask)


def name_of(message: Buffer) -> bytes:
    """The name that a LOOKUP or an UNLINK is about."""
    return _names(message, abi.IN_HEADER.size, 1)[0]


def rename_request(message: Buffer) -> Rename:
    """struct fuse_rename_in and the two names behind it."""
    (new_parent,) = _arguments(abi.RENAME_IN, message, "RENAME")
    name, new_name = _names(message, abi.IN_HEADER.size + abi.RENAME_IN.size, 2)
    return Rename(new_parent, name, new_name)


def _names(message: Buffer, at: int, count: int) -> list[bytes]:
    """Names from byte `at` to the end, each with its zero byte."""
    *names, rest = bytes(message[at:]).split(b"\0")
    if rest or len(names) != count:
        raise WireError(f"there are {len(names)} names where {count} belong")
    return names


def is_user_attribute(message: Buffer) -> bool:
    """Whether a GETXATTR asks for an attribute of the user namespace."""
    start = abi.IN_HEADER.size + abi.GETXATTR_IN.size
    return bytes(message[start : start + len(_USER)]) == _USER


def interrupted_unique(message: Buffer) -> int:
    """The raw unique of the request that an INTERRUPT is about."""
    return _arguments(abi.INTERRUPT_IN, message, "INTERRUPT")[0]


def forgotten_nodeids(message: Buffer) -> list[int]:
    """The nodeids of a FORGET or BATCH_FORGET.

    The lookup counts are left out: the kernel sends a forget only when it drops its inode and then gives back
    every lookup at once (fuse_evict_inode), so a forget always means gone.
    """
    header = request_header(message)
    if header.opcode == abi.Opcode.FORGET:
        _arguments(abi.FORGET_IN, message, "FORGET")
        return [header.nodeid]
    count = _arguments(abi.BATCH_FORGET_IN, message, "BATCH_FORGET")[0]
    start = abi.IN_HEADER.size + abi.BATCH_FORGET_IN.size
    end = start + count * abi.FORGET_ONE.size
    if end > len(message):
        raise WireError(f"a BATCH_FORGET of {count} does not fit {len(message)} bytes")
    return [nodeid for nodeid, _ in abi.FORGET_ONE.iter_unpack(memoryview(message)[start:end])]


# -- replies of our own -------------------------------------------------------------------------------


def error_reply(unique: int, errno: int) -> bytes:
    """A reply without a body. errno: positive, or 0 for success."""
    if not 0 <= errno <= _MAX_ERRNO:
        raise WireError(f"errno {errno} cannot be sent")
    return _packed(abi.OUT_HEADER, abi.OUT_HEADER.size, -errno, unique)


def lseek_reply(unique: int, offset: int) -> bytes:
    """The answer to LSEEK: the offset found, in bytes."""
    length = abi.OUT_HEADER.size + abi.LSEEK_OUT.size
    return _packed(abi.OUT_HEADER, length, 0, unique) + _packed(abi.LSEEK_OUT, offset)


def created_reply(unique: int, attributes: Attributes, fh: int, backing_id: int | None) -> bytes:
    """The answer to TMPFILE (and CREATE): entry and open file in one."""
    flags, backing = _passthrough(backing_id)
    length = abi.OUT_HEADER.size + abi.ENTRY_OUT_BYTES + abi.OPEN_OUT.size
    head = _packed(abi.OUT_HEADER, length, 0, unique)
    return head + _entry(attributes) + _packed(abi.OPEN_OUT, fh, flags, backing)


def entry_reply(unique: int, attributes: Attributes) -> bytes:
    """The answer to LOOKUP; st_ino 0: there is no such name, which may be cached as long as the others."""
    length = abi.OUT_HEADER.size + abi.ENTRY_OUT_BYTES
    return _packed(abi.OUT_HEADER, length, 0, unique) + _entry(attributes)


def attr_reply(unique: int, attributes: Attributes) -> bytes:
    """The answer to GETATTR."""
    length = abi.OUT_HEADER.size + abi.ATTR_OUT_HEAD.size + abi.ATTR.size
    valid = _packed(abi.ATTR_OUT_HEAD, *_timeout(attributes.attr_timeout))
    return _packed(abi.OUT_HEADER, length, 0, unique) + valid + _attr(attributes)


def _timeout(seconds: float) -> tuple[int, int]:
    return divmod(round(seconds * _NS_PER_S), _NS_PER_S)


def _entry(a: Attributes) -> bytes:
    entry_s, entry_rest_ns = _timeout(a.entry_timeout)
    attr_s, attr_rest_ns = _timeout(a.attr_timeout)
    head = (a.st_ino, a.generation, entry_s, attr_s, entry_rest_ns, attr_rest_ns)
    return _packed(abi.ENTRY_OUT_HEAD, *head) + _attr(a)


def _attr(a: Attributes) -> bytes:
    # a time before 1970 is a negative number of seconds in an unsigned field
    times = [divmod(t, _NS_PER_S) for t in (a.st_atime_ns, a.st_mtime_ns, a.st_ctime_ns)]
    seconds = [s & 0xFFFF_FFFF_FFFF_FFFF for s, _ in times]
    rests_ns = [rest for _, rest in times]
    owner = (a.st_mode, a.st_nlink, a.st_uid, a.st_gid, a.st_rdev, a.st_blksize, 0)
    attr = (a.st_ino, a.st_size, a.st_blocks, *seconds, *rests_ns, *owner)
    return _packed(abi.ATTR, *attr)


def _packed(layout: struct.Struct, *values: int) -> bytes:
    try:
        return layout.pack(*values)
    except struct.error as error:
        raise WireError(f"{values} does not fit the wire: {error}") from None


# -- libfuse's replies, patched -----------------------------------------------------------------------


def patch_open(reply: MutableBuffer, backing_id: int | None) -> None:
    """Make a successful OPEN reply a passthrough open (or, without a backing id, an uncached one)."""
    _patch_open_out(reply, abi.OUT_HEADER.size, backing_id)


def patch_create(reply: MutableBuffer, backing_id: int | None) -> None:
    """The same for a CREATE reply, whose open file follows the entry."""
    _patch_open_out(reply, abi.OUT_HEADER.size + abi.ENTRY_OUT_BYTES, backing_id)


def created_nodeid(reply: Buffer) -> int:
    """The nodeid in a successful CREATE reply."""
    if len(reply) < abi.OUT_HEADER.size + abi.ENTRY_OUT_BYTES:
        raise WireError(f"a CREATE reply of {len(reply)} bytes has no entry")
    return int(abi.ENTRY_OUT_HEAD.unpack_from(reply, abi.OUT_HEADER.size)[0])


def _patch_open_out(reply: MutableBuffer, offset: int, backing_id: int | None) -> None:
    if len(reply) != offset + abi.OPEN_OUT.size:
        raise WireError(f"an open file does not end a reply of {len(reply)} bytes")
    fh, _, _ = abi.OPEN_OUT.unpack_from(reply, offset)
    abi.OPEN_OUT.pack_into(reply, offset, fh, *_passthrough(backing_id))


def _passthrough(backing_id: int | None) -> tuple[int, int]:
    # Nothing of what libfuse chose is kept. DIRECT_IO wins over PASSTHROUGH for read(2) and write(2), which
    # therefore come to us, and loses for mmap (fuse_file_mmap); KEEP_CACHE with PASSTHROUGH is EIO. NOFLUSH:
    # nothing is cached that close(2) would have to wait for; with a FLUSH it would wait, uninterruptibly, for
    # a daemon that is being replaced, and so would every fork that closes inherited descriptors.
    if backing_id is None:
        return _UNCACHED.value, 0
    if not 0 < backing_id < 1 << 31:
        raise WireError(f"{backing_id} is no backing id")
    return (_UNCACHED | abi.OpenFlag.PASSTHROUGH).value, backing_id
