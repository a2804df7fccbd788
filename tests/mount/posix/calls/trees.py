"""Whole trees: removed, and described so that they can be compared."""

from __future__ import annotations

import os
import stat

from tests.mount.posix.calls import mapping, process


def raze(base_fd: int, name: str) -> None:
    """Remove a check's directory with all that is in it; step by step, so that no path gets long."""
    process.forget_all()
    process.enter(base_fd, name)
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
            mapping.digest(path, size) if kind == stat.S_IFREG and size else 0,
        )
    }
    for name in os.listdir(path) if kind == stat.S_IFDIR else ():
        found |= portrait(path + b"/" + name)
    return found
