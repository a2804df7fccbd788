"""The calls a thread makes instead of its own mmap: get the region file, map it, close it again.

Each function here is a generator of Calls (see inject). The program's own descriptor table holds the region
file only between two of these calls, close-on-exec; its stack is never used, a page of scratch memory is.

Two ways to get the file into the program. It opens the path itself; where it may not (it runs as another
user, in a chroot, under Landlock, in another mount namespace), the tracer opens it and passes the
descriptor through a socket pair that the program makes. Either way the file is compared with the one that
the tracer means before anything is mapped.

Called by the rewriter.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from typing import Final, Protocol

from guestmemfs_fuse.linux import libc
from guestmemfs_fuse.redirect import arch, kernel
from guestmemfs_fuse.redirect.inject import Call, Steps
from guestmemfs_fuse.redirect.layout import MmapRequest, Plan

_MSG_CMSG_CLOEXEC: Final = 0x40000000
_SCRATCH_BYTES: Final = 2 * arch.PAGE_BYTES
# struct msghdr: name, namelen, iov, iovlen, control, controllen, flags; struct iovec: base, len;
# struct cmsghdr with one descriptor: len, level, type, fd (cmsg(3))
_MSGHDR = struct.Struct("=QI4xQQQQi4x")
_IOVEC = struct.Struct("=QQ")
_CMSG = struct.Struct("=Qiii4x")
_TWO_INTS = struct.Struct("=ii")


class ProgramView(Protocol):
    """What the tracer does in the program's memory and descriptor table while it is stopped."""

    def read(self, address: int, length_bytes: int) -> bytes:
        """Bytes of its memory. Raises OSError."""

    def write(self, address: int, data: bytes) -> None:
        """Change its memory. Raises OSError."""

    def is_region(self, fd: int) -> bool:
        """Whether its descriptor is the region file that is meant."""

    def send_region(self, fd: int) -> None:
        """Send the region file into its socket. Raises OSError."""


class TracedProgram:
    """The real ProgramView of one thread. access_mode: how the program opened its file (O_RDONLY ...)."""

    def __init__(self, tid: int, region_path: str, access_mode: int) -> None:
        self._tid = tid
        self._region_path = region_path
        self._access_mode = access_mode

    def read(self, address: int, length_bytes: int) -> bytes:
        return kernel.read_memory(self._tid, address, length_bytes)

    def write(self, address: int, data: bytes) -> None:
        kernel.write_memory(self._tid, address, data)

    def is_region(self, fd: int) -> bool:
        try:
            theirs = os.stat(f"/proc/{self._tid}/fd/{fd}")
            ours = os.stat(self._region_path)
        except OSError:
            return False
        return (theirs.st_dev, theirs.st_ino) == (ours.st_dev, ours.st_ino)

    def send_region(self, fd: int) -> None:
        pidfd = os.pidfd_open(kernel.thread_group(self._tid))
        try:
            end = socket.socket(fileno=libc.syscall("pidfd_getfd", pidfd, fd, 0))
        finally:
            os.close(pidfd)
        with end:
            region_fd = os.open(self._region_path, self._access_mode | os.O_CLOEXEC)
            try:
                socket.send_fds(end, [b"."], [region_fd])
            finally:
                os.close(region_fd)


def redirected(request: MmapRequest, plan: Plan, access_mode: int, program: ProgramView) -> Steps:
    """Map plan.region_path in place of the program's descriptor; the program sees one mmap."""
    assert plan.region_path is not None
    fd = yield from _opened(plan.region_path, access_mode, program)
    if arch.is_error(fd):
        return fd
    address = yield from placed(request, plan, fd)
    yield Call(arch.SYS_CLOSE, (fd,))
    return address


def placed(request: MmapRequest, plan: Plan, fd: int) -> Steps:
    """Make the plan's mappings of fd; all of them, or none is left. Returns the address of the first."""
    base = request.address
    if plan.reserve_bytes:
        arguments = (base, plan.reserve_bytes, arch.PROT_NONE, plan.reserve_flags, fd, 0)
        base = yield Call(arch.SYS_MMAP, arguments)
        if arch.is_error(base):
            return base
    for piece in plan.pieces:
        at = yield Call(
            arch.SYS_MMAP,
            (
                base + piece.delta_bytes,
                piece.length_bytes,
                request.prot,
                piece.flags,
                fd,
                piece.offset_bytes,
            ),
        )
        if arch.is_error(at):
            made_bytes = plan.reserve_bytes or piece.delta_bytes
            if made_bytes:
                yield Call(arch.SYS_MUNMAP, (base, made_bytes))
            return at
        if not piece.delta_bytes:
            base = at
    return base


def _opened(region_path: str, access_mode: int, program: ProgramView) -> Steps:
    """A descriptor of the region file in the program, or -errno."""
    flags = arch.MAP_PRIVATE | arch.MAP_ANONYMOUS
    scratch = yield Call(arch.SYS_MMAP, (0, _SCRATCH_BYTES, arch.PROT_READ | arch.PROT_WRITE, flags, -1, 0))
    if arch.is_error(scratch):
        return scratch
    try:
        program.write(scratch, os.fsencode(region_path) + b"\0")
        fd = yield Call(arch.SYS_OPENAT, (arch.AT_FDCWD, scratch, access_mode | os.O_CLOEXEC, 0))
        if not arch.is_error(fd) and not program.is_region(fd):
            yield Call(arch.SYS_CLOSE, (fd,))
            fd = -errno.ENOENT
        if arch.is_error(fd) and fd not in (-errno.EMFILE, -errno.ENFILE):
            fd = yield from _received(scratch, program)
    except OSError as error:
        fd = -(error.errno or errno.ENODEV)
    yield Call(arch.SYS_MUNMAP, (scratch, _SCRATCH_BYTES))
    return fd


def _received(scratch: int, program: ProgramView) -> Steps:
    """The same through a socket pair, for programs that cannot open the path."""
    kind = socket.SOCK_STREAM | socket.SOCK_CLOEXEC
    result = yield Call(arch.SYS_SOCKETPAIR, (socket.AF_UNIX, kind, 0, scratch))
    if arch.is_error(result):
        return result
    mine, theirs = _TWO_INTS.unpack(program.read(scratch, _TWO_INTS.size))
    try:
        program.send_region(theirs)
        fd = yield from _receive_on(mine, scratch, program)
    except OSError as error:
        fd = -(error.errno or errno.ENODEV)
    yield Call(arch.SYS_CLOSE, (mine,))
    yield Call(arch.SYS_CLOSE, (theirs,))
    return fd


def _receive_on(socket_fd: int, scratch: int, program: ProgramView) -> Steps:
    iovec_at = scratch + _MSGHDR.size
    control_at = iovec_at + _IOVEC.size
    byte_at = control_at + _CMSG.size
    message = _MSGHDR.pack(0, 0, iovec_at, 1, control_at, _CMSG.size, 0)
    program.write(scratch, message + _IOVEC.pack(byte_at, 1) + bytes(_CMSG.size + 1))
    flags = _MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT
    result = yield Call(arch.SYS_RECVMSG, (socket_fd, scratch, flags))
    if arch.is_error(result):
        return result
    _, level, kind, fd = _CMSG.unpack(program.read(control_at, _CMSG.size))
    if (level, kind) != (socket.SOL_SOCKET, socket.SCM_RIGHTS):
        return -errno.EMFILE  # the kernel drops what the table has no room for
    if not program.is_region(fd):
        yield Call(arch.SYS_CLOSE, (fd,))
        return -errno.ENODEV
    return int(fd)
