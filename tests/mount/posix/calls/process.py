"""The process that makes the calls: where it is, what it may, what it leaves behind."""

from __future__ import annotations

import errno
import os

from tests.mount.posix.calls import mapping

_PRIVATE_FDS: set[int] = set()


def enter(base_fd: int, name: str) -> None:
    """Make `name` below the filesystem's root the current directory."""
    os.fchdir(base_fd)
    os.chdir(name)


def keep(fds: list[int]) -> None:
    """Descriptors that are no check's."""
    _PRIVATE_FDS.update(fds)


def forget_all() -> None:
    """Close and unmap everything, and go back to a umask of 022."""
    for handle in list(mapping.handles):
        mapping.munmap(handle)
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


def execute(path: str) -> None:
    """execve(2) in a child; its error, if it failed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.execv(path, [path])
        except OSError as error:
            os.write(writer, (error.errno or 0).to_bytes(2, "little"))
        os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    said = os.read(reader, 2)
    os.close(reader)
    if said:
        number = int.from_bytes(said, "little")
        raise OSError(number, os.strerror(number))
