"""The system calls the checks make, by name; they run inside a user's process (user.py).

One function a call, named as in man-pages section 2, with paths relative to the check's directory. What
Python wraps differently (flags it hides, errors it retries) goes to libc directly. Handles (descriptors,
mappings) are numbers of that process; `forget_all` closes what a check left open.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import select
import signal
import socket
import stat
import struct
import time
import zlib
from collections.abc import Callable

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *([ctypes.c_int] * 3), ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.msync.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_long, ctypes.c_long]
_libc.lseek.argtypes = [ctypes.c_int, ctypes.c_long, ctypes.c_int]
_libc.lseek.restype = ctypes.c_long
_libc.ftruncate.argtypes = [ctypes.c_int, ctypes.c_long]
_libc.truncate.argtypes = [ctypes.c_char_p, ctypes.c_long]

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_REMOVEDIR = 0x200
AT_SYMLINK_FOLLOW = 0x400
AT_EMPTY_PATH = 0x1000
SYS_FCHMODAT2 = 452
CLOCK_REALTIME_COARSE = 5
UTIME_NOW = (1 << 30) - 1
UTIME_OMIT = (1 << 30) - 2

_PRIVATE_FDS: set[int] = set()
_mappings: dict[int, tuple[int, int]] = {}


def _checked(result: int | None, *, failed: int = -1) -> int:
    if result == failed or result is None:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _path(path: str | bytes) -> bytes:
    return os.fsencode(path)


# -- the process itself -----------------------------------------------------------------------------


def enter(base_fd: int, name: str) -> None:
    """Make `name` below the filesystem's root the current directory."""
    os.fchdir(base_fd)
    os.chdir(name)


def keep(fds: list[int]) -> None:
    """Descriptors that are no check's."""
    _PRIVATE_FDS.update(fds)


def forget_all() -> None:
    """Close and unmap everything, and go back to a umask of 022."""
    for handle in list(_mappings):
        munmap(handle)
    for name in os.listdir("/proc/self/fd"):
        if (fd := int(name)) not in _PRIVATE_FDS and fd > 2:
            try:
                os.close(fd)
            except OSError as error:  # the listing's own descriptor
                if error.errno != errno.EBADF:
                    raise
    os.umask(0o022)


umask = os.umask


def pid() -> int:
    return os.getpid()


def file_size_limit(limit_bytes: int) -> None:
    """setrlimit(RLIMIT_FSIZE), soft only; -1 takes it away. Python ignores SIGXFSZ."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard if limit_bytes < 0 else limit_bytes, hard))


def descriptor_limit(limit: int) -> None:
    """setrlimit(RLIMIT_NOFILE), soft only; -1 takes it away."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard if limit < 0 else limit, hard))


def several(steps: list[tuple[object, ...]]) -> list[object]:
    """Make calls in a row: (name, arguments...) each; what they returned."""
    return [CALLS[str(name)](*args) for name, *args in steps]


# -- opening ----------------------------------------------------------------------------------------


def open(path: str | bytes, flags: int = os.O_RDONLY, mode: int = 0o644) -> int:
    return os.open(path, flags, mode)


def opens(path: str | bytes, flags: int = os.O_RDONLY, mode: int = 0o644) -> None:
    """open(2) for its answer only."""
    os.close(os.open(path, flags, mode))


def openat(dir_fd: int, path: str | bytes, flags: int = os.O_RDONLY, mode: int = 0o644) -> int:
    return os.open(path, flags, mode, dir_fd=dir_fd)


def close(fd: int) -> None:
    os.close(fd)


dup = os.dup


def open_flags(fd: int) -> int:
    """fcntl(F_GETFL)."""
    return fcntl.fcntl(fd, fcntl.F_GETFL)


def set_open_flags(fd: int, flags: int) -> None:
    """fcntl(F_SETFL)."""
    fcntl.fcntl(fd, fcntl.F_SETFL, flags)


# -- names ------------------------------------------------------------------------------------------


def mkdir(path: str | bytes, mode: int = 0o755) -> None:
    os.mkdir(path, mode)


def mkdirat(dir_fd: int, path: str | bytes, mode: int = 0o755) -> None:
    os.mkdir(path, mode, dir_fd=dir_fd)


def mknod(path: str | bytes, mode: int = stat.S_IFREG | 0o644, device: int = 0) -> None:
    os.mknod(path, mode, device)


def bind(path: str) -> None:
    """Make a socket by bind(2)."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)


def talk(path: str) -> bytes:
    """Send five bytes through a named pipe, from this process to itself."""
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    os.write(fd, b"hello")
    return os.read(fd, 5)


def connect(path: str) -> None:
    """Connect to a socket that nobody serves (any more)."""
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


rmdir = os.rmdir
unlink = os.unlink


def unlinkat(dir_fd: int, path: str | bytes, flags: int = 0) -> None:
    _checked(_libc.unlinkat(dir_fd, _path(path), flags))


def rename(old: str | bytes, new: str | bytes, flags: int = 0) -> None:
    """renameat2(2)."""
    _checked(_libc.renameat2(AT_FDCWD, _path(old), AT_FDCWD, _path(new), flags))


def link(old: str | bytes, new: str | bytes) -> None:
    _checked(_libc.link(_path(old), _path(new)))


def linkat(old_fd: int, old: str | bytes, new: str | bytes, flags: int = 0) -> None:
    _checked(_libc.linkat(old_fd, _path(old), AT_FDCWD, _path(new), flags))


symlink = os.symlink
readlink = os.readlink


def readlink_bytes(path: str) -> bytes:
    return os.readlink(os.fsencode(path))


# -- attributes -------------------------------------------------------------------------------------


exists = os.path.lexists
stat_ = os.stat
lstat = os.lstat
fstat = os.fstat


def chmod(path: str | bytes, mode: int) -> None:
    os.chmod(path, mode)


def fchmod(fd: int, mode: int) -> None:
    os.fchmod(fd, mode)


def lchmod(path: str | bytes, mode: int) -> None:
    """fchmodat2(2) with AT_SYMLINK_NOFOLLOW."""
    _checked(_libc.syscall(SYS_FCHMODAT2, AT_FDCWD, _path(path), mode, AT_SYMLINK_NOFOLLOW))


def chown(path: str | bytes, uid: int, gid: int) -> None:
    os.chown(path, uid, gid)


lchown = os.lchown
fchown = os.fchown


def utimens(path: str | bytes, times: tuple[int, int] | None, follow: bool = True) -> None:
    """utimensat(2) with whole nanoseconds (access, modification), or None for now and now."""
    os.utime(path, ns=times, follow_symlinks=follow) if times else os.utime(path, follow_symlinks=follow)


def utimensat(path: str | bytes, access: tuple[int, int], modification: tuple[int, int]) -> None:
    """utimensat(2) with raw (seconds, nanoseconds), which UTIME_NOW and UTIME_OMIT need."""
    times = struct.pack("4q", *access, *modification)
    _checked(_libc.utimensat(AT_FDCWD, _path(path), times, 0))


def futimens(fd: int, access_ns: int, modification_ns: int) -> None:
    os.utime(fd, ns=(access_ns, modification_ns))


def access(path: str | bytes, mode: int) -> None:
    """access(2); Python would turn the error into False."""
    _checked(_libc.access(_path(path), mode))


def statfs(path: str) -> dict[str, int]:
    """What statvfs(3) says, by field."""
    found = os.statvfs(path)
    return {name: getattr(found, name) for name in dir(found) if name.startswith("f_")}


def fstatfs(fd: int) -> dict[str, int]:
    found = os.fstatvfs(fd)
    return {name: getattr(found, name) for name in dir(found) if name.startswith("f_")}


def drop_caches() -> None:
    """Let the kernel forget all names and inodes that nobody uses (proc(5), drop_caches)."""
    fd = os.open("/proc/sys/vm/drop_caches", os.O_WRONLY)
    os.write(fd, b"2")
    os.close(fd)


# -- extended attributes ----------------------------------------------------------------------------


setxattr = os.setxattr
getxattr = os.getxattr
listxattr = os.listxattr
removexattr = os.removexattr


def lsetxattr(path: str, name: str, value: bytes, flags: int = 0) -> None:
    os.setxattr(path, name, value, flags, follow_symlinks=False)


def getxattr_into(path: str, name: str, size: int) -> int:
    """getxattr(2) into a buffer of `size` bytes."""
    return _checked(
        _libc.getxattr(_path(path), name.encode(), ctypes.create_string_buffer(max(size, 1)), size)
    )


def listxattr_into(path: str, size: int) -> int:
    return _checked(_libc.listxattr(_path(path), ctypes.create_string_buffer(max(size, 1)), size))


# -- size and memory --------------------------------------------------------------------------------


def truncate(path: str | bytes, length: int) -> None:
    _checked(_libc.truncate(_path(path), length))


def ftruncate(fd: int, length: int) -> None:
    _checked(_libc.ftruncate(fd, length))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    _checked(_libc.fallocate(fd, mode, offset, length))


def lseek(fd: int, offset: int, whence: int) -> int:
    return _checked(_libc.lseek(fd, offset, whence))


fsync = os.fsync
fdatasync = os.fdatasync


def syncfs(fd: int) -> None:
    _checked(_libc.syncfs(fd))


# -- data by system call ----------------------------------------------------------------------------


read = os.read
write = os.write
pread = os.pread
pwrite = os.pwrite


def readv(fd: int, count: int) -> int:
    return os.readv(fd, [bytearray(count)])


def writev(fd: int, data: bytes) -> int:
    return os.writev(fd, [data])


def sendfile_out_of(fd: int, count: int = 4) -> int:
    """sendfile(2) from `fd` into a socket."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        return os.sendfile(ours.fileno(), fd, 0, count)


def sendfile_between(source_fd: int, target_fd: int, count: int = 4) -> int:
    return os.sendfile(target_fd, source_fd, 0, count)


def sendfile_into(fd: int, count: int = 4) -> int:
    """sendfile(2) from a memfd into `fd`."""
    source = _filled_memfd(count)
    try:
        return os.sendfile(fd, source, 0, count)
    finally:
        os.close(source)


def splice_out_of(fd: int, count: int = 4) -> int:
    """splice(2) from `fd` into a pipe."""
    reader, writer = os.pipe()
    try:
        return os.splice(fd, writer, count)
    finally:
        os.close(reader)
        os.close(writer)


def splice_into(fd: int, data: bytes = b"data") -> int:
    """splice(2) from a pipe into `fd`."""
    reader, writer = os.pipe()
    try:
        os.write(writer, data)
        return os.splice(reader, fd, len(data))
    finally:
        os.close(reader)
        os.close(writer)


def copy_file_range(source_fd: int, target_fd: int, count: int = 4) -> int:
    return os.copy_file_range(source_fd, target_fd, count)


def copy_into(fd: int, count: int = 4) -> int:
    """copy_file_range(2) from a memfd (another filesystem) into `fd`."""
    source = _filled_memfd(count)
    try:
        return os.copy_file_range(source, fd, count)
    finally:
        os.close(source)


def clone(source_fd: int, target_fd: int) -> None:
    """ioctl(FICLONE)."""
    fcntl.ioctl(target_fd, 0x40049409, source_fd)


def _filled_memfd(count: int) -> int:
    fd = os.memfd_create("source")
    os.write(fd, b"x" * count)
    return fd


def ioctl(fd: int, request: int) -> int:
    return int(fcntl.ioctl(fd, request, b"\0" * 8) != b"") and 0


# -- mappings ---------------------------------------------------------------------------------------


def mmap(fd: int, length: int, protection: int, flags: int, offset: int = 0) -> int:
    """mmap(2); the handle is the address."""
    address = _checked(_libc.mmap(None, length, protection, flags, fd, offset), failed=(1 << 64) - 1)
    _mappings[address] = address, length
    return address


def maps(fd: int, length: int, protection: int, flags: int, offset: int = 0) -> None:
    """mmap(2) for its answer only."""
    munmap(mmap(fd, length, protection, flags, offset))


def munmap(handle: int) -> None:
    _checked(_libc.munmap(*_mappings.pop(handle)))


def peek(handle: int, offset: int, count: int) -> bytes:
    """Read through a mapping."""
    return ctypes.string_at(handle + offset, count)


def poke(handle: int, offset: int, data: bytes) -> None:
    """Write through a mapping."""
    ctypes.memmove(handle + offset, data, len(data))


def touch(handle: int, length: int) -> None:
    """Store a byte into every page of a mapping."""
    for offset in range(0, length, 4096):
        ctypes.memset(handle + offset, 1, 1)


def msync(handle: int, length: int, flags: int) -> None:
    _checked(_libc.msync(handle, length, flags))


def madvise(handle: int, offset: int, length: int, advice: int) -> None:
    _checked(_libc.madvise(handle + offset, length, advice))


def mprotect(handle: int, length: int, protection: int) -> None:
    _checked(_libc.mprotect(handle, length, protection))


def signal_of(name: str, *args: object) -> str:
    """Make a call in a child, and say which signal ended it ("none" when it came through)."""
    child = os.fork()
    if child == 0:
        try:
            globals()[name](*args)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "none"


def inherits(handle: int, offset: int, data: bytes) -> bytes:
    """Let a child write through an inherited mapping; what we then see there."""
    child = os.fork()
    if child == 0:
        poke(handle, offset, data)
        os._exit(0)
    os.waitpid(child, 0)
    return peek(handle, offset, len(data))


def smaps(handle: int) -> dict[str, int]:
    """The mapping's figures of /proc/self/smaps, in bytes."""
    figures: dict[str, int] = {}
    inside = False
    with os.fdopen(os.open("/proc/self/smaps", os.O_RDONLY)) as lines:
        for line in lines:
            head = line.split()
            if "-" in head[0] and not head[0].endswith(":"):
                inside = int(head[0].split("-")[0], 16) == handle
            elif inside and len(head) == 3 and head[2] == "kB":
                figures[head[0].rstrip(":")] = int(head[1]) * 1024
    return figures


# -- directories ------------------------------------------------------------------------------------


def listdir(path: str | bytes = ".") -> list[str] | list[bytes]:
    return sorted(os.listdir(path))  # type: ignore[type-var]


def entries(fd: int, size: int = 32768) -> list[tuple[bytes, int, int, int]]:
    """getdents64(2) once: (name, inode, offset, type) of each entry."""
    buffer = ctypes.create_string_buffer(size)
    length = _checked(_libc.syscall(217, fd, buffer, size))
    found, at = [], 0
    while at < length:
        ino, offset, reclen, kind = struct.unpack_from("=QqHB", buffer, at)
        name = buffer.raw[at + 19 : at + reclen].split(b"\0")[0]
        found.append((name, ino, offset, kind))
        at += reclen
    return found


def fchdir(fd: int) -> None:
    os.fchdir(fd)


def chdir(path: str) -> None:
    os.chdir(path)


def depth(base_fd: int) -> int:
    """How many directories are above this one, up to `base_fd`'s, which becomes the current one."""
    top, steps = os.fstat(base_fd), 0
    while not os.path.samestat(os.stat("."), top):
        os.chdir("..")
        steps += 1
    return steps


# -- locks ------------------------------------------------------------------------------------------


def flock(fd: int, operation: int) -> None:
    """flock(2), never waiting."""
    fcntl.flock(fd, operation | fcntl.LOCK_NB)


F_OFD_SETLK = 37


def lock(fd: int, kind: int, start: int = 0, length: int = 0, *, ofd: bool = False) -> None:
    """fcntl(F_SETLK), or of the open file description."""
    fcntl.fcntl(fd, F_OFD_SETLK if ofd else fcntl.F_SETLK, struct.pack("hhqqi4x", kind, 0, start, length, 0))


def lock_holder(fd: int, kind: int, start: int = 0, length: int = 0) -> tuple[int, int]:
    """fcntl(F_GETLK): the kind of the lock in the way, and whose it is."""
    answer = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack("hhqqi4x", kind, 0, start, length, 0))
    kind, _, _, _, owner = struct.unpack("hhqqi4x", answer)
    return kind, owner


def lease(fd: int, kind: int) -> None:
    """fcntl(F_SETLEASE)."""
    fcntl.fcntl(fd, fcntl.F_SETLEASE, kind)


# -- being told -------------------------------------------------------------------------------------


def inotify(path: str, mask: int) -> int:
    """Watch a path; the handle is the inotify descriptor."""
    fd = _checked(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    _checked(_libc.inotify_add_watch(fd, _path(path), mask))
    return fd


def inotify_events(fd: int) -> list[tuple[int, bytes]]:
    """Events that came, as (mask, name)."""
    try:
        data = os.read(fd, 65536)
    except BlockingIOError:
        return []
    found, at = [], 0
    while at < len(data):
        _, mask, _, length = struct.unpack_from("iIII", data, at)
        found.append((mask, data[at + 16 : at + 16 + length].rstrip(b"\0")))
        at += 16 + length
    return found


def polls(fd: int) -> int:
    """poll(2) without waiting: which events are there."""
    poller = select.poll()
    poller.register(fd, select.POLLIN | select.POLLOUT)
    return poller.poll(0)[0][1]


# -- running ----------------------------------------------------------------------------------------


def execute(path: str) -> None:
    """execve(2) in a child; its error, if it failed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.execv(path, [path])
        except OSError as error:
            os.write(writer, error.errno.to_bytes(2, "little"))
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    said = os.read(reader, 2)
    os.close(reader)
    if said:
        number = int.from_bytes(said, "little")
        raise OSError(number, os.strerror(number))


def handle_of(path: str) -> bytes:
    """name_to_handle_at(2): a name for the file that outlives all its names."""
    handle, mount = ctypes.create_string_buffer(8 + 128), ctypes.c_int()
    struct.pack_into("Ii", handle, 0, 128, 0)
    _checked(_libc.name_to_handle_at(AT_FDCWD, _path(path), handle, ctypes.byref(mount), 0))
    return handle.raw


def open_handle(mount_fd: int, handle: bytes, flags: int = os.O_RDONLY) -> int:
    """open_by_handle_at(2)."""
    return _checked(_libc.open_by_handle_at(mount_fd, handle, flags))


def no_handle(mount_fd: int, handle: bytes) -> str:
    """open_by_handle_at(2) right behind other calls: the errno's name."""
    try:
        return f"opened {open_handle(mount_fd, handle)}"
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def statx_version(path: str) -> int:
    """statx(2): the mask of what was filled in."""
    buffer = ctypes.create_string_buffer(256)
    _checked(_libc.statx(AT_FDCWD, _path(path), AT_SYMLINK_NOFOLLOW, 0x7FF, buffer))
    return int(struct.unpack_from("I", buffer)[0])


# -- trees ------------------------------------------------------------------------------------------


def begin(base_fd: int, name: str, steps: list[tuple[object, ...]]) -> None:
    """Make a directory for a check, in which everybody may do everything, enter it and make what is given."""
    os.mkdir(name, dir_fd=base_fd)
    os.chmod(name, 0o777, dir_fd=base_fd)
    enter(base_fd, name)
    several(steps)


def raze(base_fd: int, name: str) -> None:
    """Remove a check's directory with all that is in it; step by step, so that no path gets long."""
    forget_all()
    enter(base_fd, name)
    left = [_remove_files()]
    while left:
        if left[-1]:
            os.chdir(left[-1][-1])
            left.append(_remove_files())
            continue
        left.pop()
        os.chdir("..")
        if left:
            os.rmdir(left[-1].pop())
    os.fchdir(base_fd)
    os.rmdir(name)


def _remove_files() -> list[bytes]:
    """Remove what is no directory from the current one; the directories that are left in it."""
    directories = []
    for entry in list(os.scandir(b".")):
        if entry.is_dir(follow_symlinks=False):
            directories.append(entry.name)
        else:
            os.unlink(entry.name)
    return directories


def snapshot(path: bytes = b".", xattrs: bool = True) -> dict[bytes, object]:
    """All that can be seen of a tree without changing it; access times are left out."""
    at = os.lstat(path)
    found: dict[bytes, object] = {path: _seen(path, at, xattrs)}
    for name in os.listdir(path) if stat.S_ISDIR(at.st_mode) else ():
        found |= snapshot(path + b"/" + name, xattrs)
    return found


def _seen(path: bytes, at: os.stat_result, xattrs: bool) -> object:
    attributes: tuple[object, ...] = ()
    if xattrs and not stat.S_ISLNK(at.st_mode):
        attributes = tuple((name, os.getxattr(path, name)) for name in sorted(os.listxattr(path)))
    target = os.readlink(path) if stat.S_ISLNK(at.st_mode) else b""
    owner = at.st_mode, at.st_nlink, at.st_uid, at.st_gid, at.st_rdev
    return *owner, at.st_size, at.st_blocks, at.st_mtime_ns, at.st_ctime_ns, target, attributes


def portrait(path: bytes = b".") -> dict[bytes, object]:
    """What two filesystems must agree on: all but numbers, times, and figures of memory."""
    at = os.lstat(path)
    kind = stat.S_IFMT(at.st_mode)
    is_link = kind == stat.S_IFLNK
    xattrs = () if is_link else tuple((name, os.getxattr(path, name)) for name in sorted(os.listxattr(path)))
    size = 0 if kind == stat.S_IFDIR else at.st_size
    found: dict[bytes, object] = {
        path: (
            *(at.st_mode, at.st_nlink, at.st_uid, at.st_gid, size, xattrs),
            os.readlink(path) if is_link else b"",
            _digest(path, size) if kind == stat.S_IFREG and size else 0,
        )
    }
    for name in os.listdir(path) if kind == stat.S_IFDIR else ():
        found |= portrait(path + b"/" + name)
    return found


def _digest(path: bytes, size: int) -> int:
    """A checksum of a file's bytes, read through a mapping."""
    fd = os.open(path, os.O_RDONLY)
    handle = mmap(fd, size, 1, 1)
    try:
        return zlib.crc32(ctypes.string_at(handle, size))
    finally:
        munmap(handle)
        os.close(fd)


def store(path: str, offset: int, data: bytes) -> str:
    """Store bytes through a mapping, as far as the file goes."""
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        length = min(len(data), os.fstat(fd).st_size - offset)
        if length <= 0 or not stat.S_ISREG(os.fstat(fd).st_mode):
            return "nothing there"
        handle = mmap(fd, offset + length, 3, 1)
        poke(handle, offset, data[:length])
        munmap(handle)
        return "stored"
    finally:
        os.close(fd)


def store_anyway(path: str, offset: int, data: bytes) -> None:
    """Store bytes through a mapping, also behind the end."""
    fd = os.open(path, os.O_RDWR)
    handle = mmap(fd, offset + len(data), 3, 1)
    os.close(fd)
    poke(handle, offset, data)
    munmap(handle)


def checksum(path: str) -> int:
    """CRC-32 of a file's bytes, read through a mapping."""
    size = os.stat(path).st_size
    return _digest(os.fsencode(path), size) if size else 0


def fallocates(path: str, mode: int, offset: int, length: int) -> None:
    """fallocate(2) of a path."""
    fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    try:
        fallocate(fd, mode, offset, length)
    finally:
        os.close(fd)


def times(paths: list[str]) -> dict[str, tuple[int, int, int] | None]:
    """Access, modification and change time of each path, None where there is nothing."""
    return {path: _times(path) for path in paths}


def past_times(paths: list[str]) -> dict[str, tuple[int, int, int] | None]:
    """Set access and modification times well into the past, and come back when the clock has moved on.

    The kernel may stamp from its coarse clock, which ticks every few milliseconds and lags behind the
    fine one: a change could not be told from none before the coarse clock has passed the last stamp.
    """
    for path in paths:
        if os.path.lexists(path):
            os.utime(path, ns=(10**18, 10**18 + 1), follow_symlinks=False)
    before = times(paths)
    last = max(stamps[2] for stamps in before.values() if stamps is not None)
    while time.clock_gettime_ns(CLOCK_REALTIME_COARSE) <= last:
        pass
    return before


def _times(path: str) -> tuple[int, int, int] | None:
    try:
        at = os.lstat(path)
    except FileNotFoundError:
        return None
    return at.st_atime_ns, at.st_mtime_ns, at.st_ctime_ns


CALLS: dict[str, Callable[..., object]] = {
    name.rstrip("_"): function
    for name, function in list(globals().items())
    if callable(function) and not name.startswith("_") and name not in ("Callable",)
}
