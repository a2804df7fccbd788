"""What the tracer must know of x86-64: call numbers, argument registers, the struct that statfs fills.

Pure numbers and bytes. Sources: arch/x86/entry/syscalls/syscall_64.tbl, include/uapi/linux/audit.h,
include/uapi/asm-generic/mman*.h, arch/x86/include/uapi/asm/statfs.h. Called by everything in this room.
"""

from __future__ import annotations

import os
import struct
import sys
from typing import Final, Protocol

from guestmemfs_fuse.core.errors import UnsupportedError

AUDIT_ARCH: Final = 0xC000003E
"""What PTRACE_GET_SYSCALL_INFO says of a native call; 32-bit calls (int 0x80) say something else."""

AT_FDCWD: Final = -100

SYS_CLOSE: Final = 3
SYS_MMAP: Final = 9
SYS_MUNMAP: Final = 11
SYS_MADVISE: Final = 28
SYS_RECVMSG: Final = 47
SYS_SOCKETPAIR: Final = 53
SYS_FTRUNCATE: Final = 77
SYS_STATFS: Final = 137
SYS_FSTATFS: Final = 138
SYS_MLOCK: Final = 149
SYS_MLOCKALL: Final = 151
SYS_OPENAT: Final = 257
SYS_FALLOCATE: Final = 285
SYS_MLOCK2: Final = 325
NO_CALL: Final = (1 << 64) - 1
"""What orig_rax holds outside of a call: the kernel has nothing to restart there."""

SYSCALL_INSTRUCTION_BYTES: Final = 2
PAGE_BYTES: Final = 4096

MAP_SHARED: Final = 0x01
MAP_PRIVATE: Final = 0x02
MAP_TYPE: Final = 0x0F
MAP_FIXED: Final = 0x10
MAP_ANONYMOUS: Final = 0x20
MAP_32BIT: Final = 0x40
MAP_NORESERVE: Final = 0x4000
MAP_FIXED_NOREPLACE: Final = 0x100000
PROT_NONE: Final = 0
PROT_READ: Final = 1
PROT_WRITE: Final = 2

HUGETLBFS_MAGIC: Final = 0x958458F6
# f_type, f_bsize, f_blocks, f_bfree, f_bavail, f_files, f_ffree, f_fsid, f_namelen, f_frsize
_STATFS = struct.Struct("=qqQQQQQQqq")
STATFS_BYTES: Final = _STATFS.size
_FIRST_RESTART: Final = 512
_LAST_RESTART: Final = 516


class Registers(Protocol):
    """The general registers of a stopped thread (struct user_regs_struct), all unsigned 64 bits."""

    rax: int
    orig_rax: int
    rip: int
    rdi: int
    rsi: int
    rdx: int
    r10: int
    r8: int
    r9: int


def require_supported() -> None:
    """Raises UnsupportedError on anything but a 64-bit Python on x86-64 Linux."""
    if sys.platform != "linux" or os.uname().machine != "x86_64" or sys.maxsize < 1 << 32:
        raise UnsupportedError(
            f"guestmemfs run knows the system calls of x86-64 Linux only, not of {os.uname().machine}",
            hint="use a region kind with kernel passthrough (tmpfs, memfd, dax), which needs no launcher",
        )


def signed(value: int) -> int:
    """An unsigned register value as the signed number it stands for."""
    value &= NO_CALL
    return value - (1 << 64) if value >> 63 else value


def unsigned(value: int) -> int:
    """A signed number as a register holds it."""
    return value & NO_CALL


def as_int(value: int) -> int:
    """The low half of a register as a C int: what the kernel looks at where an fd is expected."""
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >> 31 else value


def is_error(result: int) -> bool:
    """Whether a call's result is -errno (the top page of the address space, IS_ERR_VALUE)."""
    return -4095 <= result < 0


def wants_restart(result: int) -> bool:
    """Whether the kernel will run the call again after the signals (ERESTARTSYS and its kin)."""
    return _FIRST_RESTART <= -result <= _LAST_RESTART


def set_arguments(registers: Registers, arguments: tuple[int, ...]) -> None:
    """Put up to six arguments where the kernel looks for them; missing ones become 0."""
    padded = [unsigned(value) for value in (*arguments, 0, 0, 0, 0, 0, 0)[:6]]
    registers.rdi, registers.rsi, registers.rdx = padded[:3]
    registers.r10, registers.r8, registers.r9 = padded[3:]


def statfs_as_hugetlbfs(raw: bytes, page_bytes: int) -> bytes:
    """The first STATFS_BYTES of a struct statfs, told as a hugetlbfs with that page size would tell it.

    Counts are converted to the new unit, so free space in bytes stays what it was.
    """
    _, bsize, blocks, free, available, files, ffree, fsid, namelen, frsize = _STATFS.unpack(raw)
    unit = frsize or bsize
    scaled = [count * unit // page_bytes for count in (blocks, free, available)]
    return _STATFS.pack(HUGETLBFS_MAGIC, page_bytes, *scaled, files, ffree, fsid, namelen, page_bytes)
