"""Instance names, and paths that are resolved without waking what is mounted on them.

Invariant: nothing here stats, opens or lists. A dead FUSE mount answers ENOTCONN and a stuck one never;
readlink(2) on a mountpoint asks the filesystem nothing (fs/stat.c do_readlinkat: the root is no symlink,
EINVAL). Called by the registry (metadata/instance.py).
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Collection

from guestmemfs_fuse.core.errors import UsageError

# 64 bytes with the final NUL is also what a live update session name may have (uapi linux/liveupdate.h).
_MAX_NAME = 63
_NAME = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9_.:+-]{0,62}")
_PLAIN_BYTES = frozenset(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.:")
_MAX_SYMLINKS = 40


def valid_name(name: str) -> bool:
    """Whether name can be an instance's: 1 to 63 of A-Z a-z 0-9 _ . : + -, not starting with . : or -."""
    return _NAME.fullmatch(name) is not None


def default_name(mountpoint: str) -> str:
    """The name an instance gets when the user gives none: /mnt/guest-ram is mnt-guest--ram.

    '/' becomes '-', '-' is doubled, other bytes become +xx, so that different mountpoints get different
    names. What would be too long keeps its end and gets a checksum.
    """
    path = os.fsencode(mountpoint).strip(b"/")
    out = []
    for index, byte in enumerate(path):
        if byte in _PLAIN_BYTES and (index or byte not in b".:"):
            out.append(chr(byte))
        elif index and byte in b"/-":
            out.append("-" if byte == 0x2F else "--")
        else:
            out.append(f"+{byte:02x}")
    name = "".join(out) or "root"
    if len(name) > _MAX_NAME:
        name = f"{zlib.crc32(path):08x}+{name[9 - _MAX_NAME :]}"
    return name


def resolve_path(path: str, stop_at: Collection[str] = ()) -> str:
    """Absolute path without symlinks, '.' and '..', made with readlink(2) only; need not exist.

    Resolution ends at the first prefix in stop_at: what follows is appended as it stands, so nothing below a
    mountpoint of ours is looked up; where that leads out again, it goes on. Raises UsageError for an empty
    path, which is somebody's unset variable and not the working directory.
    """
    if not path:
        raise UsageError("an empty path was given")
    # abspath() would fold 'link/..' before the link is read.
    absolute = path if path.startswith("/") else os.path.join(os.getcwd(), path)
    todo = _parts(absolute)
    done = "/"
    links_left = _MAX_SYMLINKS
    while todo:
        part = todo.pop()
        if part == ".":
            continue
        if part == "..":
            done = os.path.dirname(done)
            continue
        step = os.path.join(done, part)
        if step in stop_at:
            whole = os.path.normpath(os.path.join(step, *todo[::-1]))
            return whole if (whole + "/").startswith(step + "/") else resolve_path(whole, stop_at)
        try:
            target = os.readlink(step)
        except OSError:
            done = step
            continue
        links_left -= 1
        if links_left < 0:
            return os.path.normpath(os.path.join(step, *todo[::-1]))
        if target.startswith("/"):
            done = "/"
        todo.extend(_parts(target))
    return done


def _parts(path: str) -> list[str]:
    """Components, last one first: a stack to pop from."""
    return [part for part in path.split("/") if part][::-1]
