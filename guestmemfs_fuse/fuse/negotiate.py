"""The INIT exchange, rewritten both ways: what libfuse sees of the kernel, and the kernel of libfuse.

pyfuse3 and libfuse 3.14 know nothing of passthrough, and some of what they ask for by default would break
our contract. So libfuse is shown a kernel that offers only what we want, and the kernel gets a reply in
which what we need is added. Pure: bytes in, bytes out. Called by the relay, on the first start and again at
every resume.

Invariants: no flag reaches the kernel that it did not offer; the reply is always the full 64 bytes.
"""

from __future__ import annotations

from typing import Final

from guestmemfs_fuse.fuse import abi
from guestmemfs_fuse.fuse.abi import InitFlag
from guestmemfs_fuse.fuse.wire import Buffer, WireError, reply_header, request_header

# libfuse switches its splice(2) receive path on for minor >= 14 and pyfuse3 cannot turn it off. On a socket
# that path allocates a pipe full of pages per message (copy_splice_read) and costs a second system call: a
# fifth of an uncached stat. 13 differs from 38 for libfuse in nothing else but the length of its INIT reply
# and ioctl on directories.
LIBFUSE_MINOR: Final = 13

# What libfuse may choose from. Left out on purpose: ATOMIC_O_TRUNC (O_TRUNC shall arrive as SETATTR),
# WRITEBACK_CACHE (excludes passthrough), HANDLE_KILLPRIV (the kernel strips suid bits itself), MAX_PAGES
# (would make libfuse's buffer 1 MiB; 32 pages are the kernel's default), locks (local ones need no daemon),
# OVER_IO_URING and REQUEST_TIMEOUT (a session that outlives its daemon must be allowed to be silent).
LIBFUSE_MAY_USE: Final = (
    InitFlag.ASYNC_READ
    | InitFlag.EXPORT_SUPPORT
    | InitFlag.BIG_WRITES
    | InitFlag.DONT_MASK
    | InitFlag.DO_READDIRPLUS
    | InitFlag.READDIRPLUS_AUTO
    | InitFlag.ASYNC_DIO
    | InitFlag.PARALLEL_DIROPS
    | InitFlag.POSIX_ACL
    | InitFlag.CACHE_SYMLINKS
)

# What we take whether libfuse asks or not, where the kernel offers it. ABORT_ERROR lets read(2) on the
# device tell an aborted connection (ECONNABORTED) from an unmounted one (ENODEV). CACHE_SYMLINKS, because a
# symlink's target never changes: without it each path through one costs a READLINK, and a GETATTR after it.
# EXPORT_SUPPORT, because our numbers are never reused: a file handle leads to its file even when the kernel
# has forgotten it (lookup of "." and "..").
WE_TAKE: Final = (
    InitFlag.INIT_EXT
    | InitFlag.PASSTHROUGH
    | InitFlag.PARALLEL_DIROPS
    | InitFlag.ABORT_ERROR
    | InitFlag.CACHE_SYMLINKS
    | InitFlag.EXPORT_SUPPORT
)

# The protocol minor that abi.py was written from
_OUR_MINOR: Final = 45


def offered(request: Buffer) -> InitFlag:
    """The flags the kernel offers in its INIT request (both words)."""
    header = request_header(request)
    if header.opcode != abi.Opcode.INIT:
        raise WireError(f"opcode {header.opcode} came where INIT was expected")
    body = memoryview(request)[abi.IN_HEADER.size :]
    if len(body) < abi.INIT_IN_BYTES:
        raise WireError(
            f"an INIT request of {len(request)} bytes is older than 7.36", hint="Linux >= 6.9 is needed"
        )
    major, _, _, low, high = abi.INIT_IN.unpack_from(body)
    if major != abi.MAJOR:
        raise WireError(f"the kernel speaks FUSE protocol {major}, we speak {abi.MAJOR}")
    return InitFlag(low | high << 32)


def request_for_libfuse(request: Buffer) -> bytes:
    """The INIT request as libfuse shall see it: an older kernel that offers little."""
    flags = offered(request) & LIBFUSE_MAY_USE
    shown = bytearray(request)
    _, _, max_readahead, _, _ = abi.INIT_IN.unpack_from(shown, abi.IN_HEADER.size)
    abi.INIT_IN.pack_into(shown, abi.IN_HEADER.size, abi.MAJOR, LIBFUSE_MINOR, max_readahead, flags.value, 0)
    return bytes(shown)


def reply_for_kernel(reply: Buffer, request: Buffer) -> bytes:
    """Build the INIT reply the kernel gets, from libfuse's reply and the kernel's own request.

    max_write is the kernel's smallest, 4096: writes are refused anyway, and read(2) on the device demands a
    buffer that has room for it. max_stack_depth 1 is what switches passthrough on (process_init_reply,
    fs/fuse/inode.c). Raises WireError when libfuse refused or its answer is not an INIT reply.
    """
    available = offered(request)
    header = reply_header(reply)
    if header.error:
        raise WireError(f"libfuse refused the session (errno {-header.error})")
    body = memoryview(reply)[abi.OUT_HEADER.size :]
    if len(body) < abi.INIT_OUT_COMPAT_22.size:
        raise WireError(f"an INIT reply of {len(reply)} bytes is too short")
    major, _, max_readahead, low, background, congestion, _ = abi.INIT_OUT_COMPAT_22.unpack_from(body)
    if major != abi.MAJOR:
        raise WireError(f"libfuse speaks FUSE protocol {major}, we speak {abi.MAJOR}")
    flags = ((InitFlag(low) & LIBFUSE_MAY_USE) | WE_TAKE) & available
    kernel_minor = abi.INIT_IN.unpack_from(request, abi.IN_HEADER.size)[1]
    head = abi.OUT_HEADER.pack(abi.OUT_HEADER.size + abi.INIT_OUT.size, 0, header.unique)
    return head + abi.INIT_OUT.pack(
        abi.MAJOR,
        min(kernel_minor, _OUR_MINOR),
        max_readahead,
        flags.value & 0xFFFF_FFFF,
        background,
        congestion,
        abi.SMALLEST_MAX_WRITE_BYTES,
        1,  # time granularity: a nanosecond
        0,
        0,
        flags.value >> 32,
        abi.MAX_STACK_DEPTH if InitFlag.PASSTHROUGH in flags else 0,
        0,
    )


def accepted(kernel_reply: Buffer) -> InitFlag:
    """The flags in a reply made by reply_for_kernel: what this session runs with."""
    fields = abi.INIT_OUT.unpack_from(kernel_reply, abi.OUT_HEADER.size)
    return InitFlag(fields[3] | fields[10] << 32)
