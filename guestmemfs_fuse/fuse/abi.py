"""The FUSE wire format: numbers and struct layouts, nothing else.

Source of every constant: include/uapi/linux/fuse.h of Linux 6.18 (protocol 7.45), which only ever grows at
the end. Only what the channel reads, patches or answers itself is here; everything else passes unseen.

Invariants: no logic and no I/O; layouts are little structs in native byte order without padding of their own
(the kernel pads every struct to 64 bit by explicit fields). Used by wire, negotiate, notify, device, relay.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from struct import Struct
from typing import Final

MAJOR: Final = 7


class Opcode(IntEnum):
    """enum fuse_opcode; members carry the kernel's names without the FUSE_ prefix."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52
    COPY_FILE_RANGE_64 = 53


class InitFlag(IntFlag):
    """Bits of fuse_init_in/out: flags in the low word, flags2 in the high one."""

    ASYNC_READ = 1 << 0
    POSIX_LOCKS = 1 << 1
    ATOMIC_O_TRUNC = 1 << 3
    EXPORT_SUPPORT = 1 << 4
    BIG_WRITES = 1 << 5
    DONT_MASK = 1 << 6
    SPLICE_WRITE = 1 << 7
    SPLICE_MOVE = 1 << 8
    SPLICE_READ = 1 << 9
    FLOCK_LOCKS = 1 << 10
    HAS_IOCTL_DIR = 1 << 11
    AUTO_INVAL_DATA = 1 << 12
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    ASYNC_DIO = 1 << 15
    WRITEBACK_CACHE = 1 << 16
    NO_OPEN_SUPPORT = 1 << 17
    PARALLEL_DIROPS = 1 << 18
    HANDLE_KILLPRIV = 1 << 19
    POSIX_ACL = 1 << 20
    ABORT_ERROR = 1 << 21
    MAX_PAGES = 1 << 22
    CACHE_SYMLINKS = 1 << 23
    NO_OPENDIR_SUPPORT = 1 << 24
    EXPLICIT_INVAL_DATA = 1 << 25
    MAP_ALIGNMENT = 1 << 26
    SUBMOUNTS = 1 << 27
    HANDLE_KILLPRIV_V2 = 1 << 28
    SETXATTR_EXT = 1 << 29
    INIT_EXT = 1 << 30
    SECURITY_CTX = 1 << 32
    HAS_INODE_DAX = 1 << 33
    CREATE_SUPP_GROUP = 1 << 34
    HAS_EXPIRE_ONLY = 1 << 35
    DIRECT_IO_ALLOW_MMAP = 1 << 36
    PASSTHROUGH = 1 << 37
    NO_EXPORT_SUPPORT = 1 << 38
    HAS_RESEND = 1 << 39
    ALLOW_IDMAP = 1 << 40
    OVER_IO_URING = 1 << 41
    REQUEST_TIMEOUT = 1 << 42


class SetAttr(IntFlag):
    """FATTR_*: bits of fuse_setattr_in.valid, its first word; those about times."""

    ATIME = 1 << 4
    MTIME = 1 << 5
    ATIME_NOW = 1 << 7
    MTIME_NOW = 1 << 8


class OpenFlag(IntFlag):
    """FOPEN_*: bits of fuse_open_out.open_flags."""

    DIRECT_IO = 1 << 0
    KEEP_CACHE = 1 << 1
    NONSEEKABLE = 1 << 2
    CACHE_DIR = 1 << 3
    STREAM = 1 << 4
    NOFLUSH = 1 << 5
    PARALLEL_DIRECT_WRITES = 1 << 6
    PASSTHROUGH = 1 << 7


class Notify(IntEnum):
    """enum fuse_notify_code: goes into the error field of a message whose unique is 0."""

    INVAL_INODE = 2
    INVAL_ENTRY = 3
    RESEND = 7


# fuse_in_header.unique: set by the kernel on a request that NOTIFY_RESEND brought back
UNIQUE_RESEND: Final = 1 << 63

# max_stack_depth may be 1..FILESYSTEM_MAX_STACK_DEPTH (2); 1 lets our own mount be the lower layer of another
MAX_STACK_DEPTH: Final = 1

# process_init_reply() never goes below this, and read(2) on the device wants room for it
SMALLEST_MAX_WRITE_BYTES: Final = 4096

# SETXATTR carries the largest payload we are sent (XATTR_SIZE_MAX, 64 KiB), BATCH_FORGET fills what there is
REQUEST_BUFFER_BYTES: Final = (1 << 20) + 4096

# len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding
IN_HEADER: Final = Struct("=IIQQIIIHH")
IN_HEADER_PID_OFFSET: Final = 32
PID: Final = Struct("=I")

# fuse_setattr_in.valid, behind the header
SETATTR_VALID: Final = Struct("=I")

# len, error, unique
OUT_HEADER: Final = Struct("=IiQ")

# major, minor, max_readahead, flags, flags2 (11 reserved words follow)
INIT_IN: Final = Struct("=IIIII")
INIT_IN_BYTES: Final = 64

# major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran,
# max_pages, map_alignment, flags2, max_stack_depth, request_timeout, 11 reserved halfwords
INIT_OUT: Final = Struct("=IIIIHHIIHHIIH22x")
# the same up to congestion_threshold and max_write: what a 7.5..7.22 server answers
INIT_OUT_COMPAT_22: Final = Struct("=IIIIHHI")

# ino, size, blocks, atime, mtime, ctime, atimensec, mtimensec, ctimensec, mode, nlink, uid, gid, rdev,
# blksize, flags
ATTR: Final = Struct("=QQQQQQIIIIIIIIII")

# nodeid, generation, entry_valid, attr_valid, entry_valid_nsec, attr_valid_nsec; ATTR follows
ENTRY_OUT_HEAD: Final = Struct("=QQQQII")
ENTRY_OUT_BYTES: Final = ENTRY_OUT_HEAD.size + ATTR.size

# fh, open_flags, backing_id
OPEN_OUT: Final = Struct("=QIi")

# flags, mode, umask, open_flags; a name follows (CREATE and TMPFILE)
CREATE_IN: Final = Struct("=IIII")

# newdir; the old and the new name follow (RENAME; RENAME2 has flags, too)
RENAME_IN: Final = Struct("=Q")

# attr_valid, attr_valid_nsec, dummy; ATTR follows
ATTR_OUT_HEAD: Final = Struct("=QI4x")

# size, padding; the attribute's name follows
GETXATTR_IN: Final = Struct("=I4x")

# fh, offset, length, mode, padding
FALLOCATE_IN: Final = Struct("=QQQI4x")

# fh, offset, whence, padding
LSEEK_IN: Final = Struct("=QQI4x")
LSEEK_OUT: Final = Struct("=Q")

# unique of the request to interrupt
INTERRUPT_IN: Final = Struct("=Q")

# FORGET: nlookup; BATCH_FORGET: count, dummy, then count times (nodeid, nlookup)
FORGET_IN: Final = Struct("=Q")
BATCH_FORGET_IN: Final = Struct("=I4x")
FORGET_ONE: Final = Struct("=QQ")

# ino, off, len
NOTIFY_INVAL_INODE_OUT: Final = Struct("=Qqq")
# parent, namelen, flags; the name and a zero byte follow
NOTIFY_INVAL_ENTRY_OUT: Final = Struct("=QII")

# struct fuse_backing_map: fd, flags, padding
BACKING_MAP: Final = Struct("=iIQ")
BACKING_ID: Final = Struct("=I")
# _IOW(229, 1, struct fuse_backing_map) and _IOW(229, 2, uint32_t)
DEV_IOC_BACKING_OPEN: Final = 0x4010E501
DEV_IOC_BACKING_CLOSE: Final = 0x4004E502
