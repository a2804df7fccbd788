"""mount(2), umount2(2) and the newer mount API, with errors that name the option that was refused.

Owns no state: a mount fd that is returned belongs to the caller. Called by the regions (a tmpfs or
hugetlbfs of their own), the daemon (the FUSE mount itself) and the probes.

Sources: mount(2), umount2(2), fsopen(2), fsconfig(2), fsmount(2), fspick(2); include/uapi/linux/mount.h.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping

from guestmemfs_fuse.linux import libc

MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8

MNT_DETACH = 2
UMOUNT_NOFOLLOW = 8

MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8

_FSOPEN_CLOEXEC = 1
_FSMOUNT_CLOEXEC = 1
_FSPICK_CLOEXEC = 1
_FSPICK_NO_AUTOMOUNT = 4
_FSPICK_EMPTY_PATH = 8
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6
_FSCONFIG_CMD_RECONFIGURE = 7
_MOVE_MOUNT_F_EMPTY_PATH = 4
_AT_FDCWD = -100

Options = Mapping[str, str | None]


def mount(source: str, target: str, fstype: str, flags: int = 0, data: str = "") -> None:
    """mount(2). flags: MS_* bits; data: comma-separated options. Raises OSError naming the target."""
    libc.call("mount", source, target, fstype, flags, data, about=target)


def umount(target: str, flags: int = UMOUNT_NOFOLLOW) -> None:
    """umount2(2). flags: MNT_* | UMOUNT_NOFOLLOW. Never stats the target; raises OSError (EBUSY, EINVAL)."""
    libc.call("umount2", target, flags, about=target)


def new_filesystem(fstype: str, options: Options, mount_attrs: int = 0, *, source: str | None = None) -> int:
    """Make a new filesystem instance that is mounted nowhere yet.

    fstype: "tmpfs", "hugetlbfs" ...; options: its own options, None for a flag without a value;
    mount_attrs: MOUNT_ATTR_* bits; source: what mountinfo shows as source (default: "none").
    Returns a mount fd (close-on-exec): usable as dir_fd, alive until closed or attached.
    Raises OSError; its text says which option the kernel refused and why.
    """
    context = libc.syscall("fsopen", fstype, _FSOPEN_CLOEXEC, about=fstype)
    try:
        if source is not None:
            _configure(context, fstype, {"source": source})
        _configure(context, fstype, options)
        _command(context, fstype, _FSCONFIG_CMD_CREATE)
        return libc.syscall("fsmount", context, _FSMOUNT_CLOEXEC, mount_attrs, about=fstype)
    finally:
        os.close(context)


def attach(mount_fd: int, target_path: str) -> None:
    """Put a mount made by `new_filesystem` at target_path, which must exist. Raises OSError."""
    libc.syscall(
        "move_mount", mount_fd, "", _AT_FDCWD, target_path, _MOVE_MOUNT_F_EMPTY_PATH, about=target_path
    )


def reconfigure(mount_point: str | int, options: Options) -> None:
    """Change options of a mounted superblock, such as a tmpfs's size; options not named stay as they are.

    mount_point: the path of the mount's root, or a mount fd. Raises OSError naming the refused option.
    """
    if isinstance(mount_point, int):
        name = f"mount fd {mount_point}"
        flags = _FSPICK_CLOEXEC | _FSPICK_EMPTY_PATH
        context = libc.syscall("fspick", mount_point, "", flags, about=name)
    else:
        name = mount_point
        flags = _FSPICK_CLOEXEC | _FSPICK_NO_AUTOMOUNT
        context = libc.syscall("fspick", _AT_FDCWD, mount_point, flags, about=name)
    try:
        _configure(context, name, options)
        _command(context, name, _FSCONFIG_CMD_RECONFIGURE)
    finally:
        os.close(context)


def _configure(context_fd: int, about: str, options: Options) -> None:
    for key, value in options.items():
        kind = _FSCONFIG_SET_FLAG if value is None else _FSCONFIG_SET_STRING
        try:
            libc.syscall("fsconfig", context_fd, kind, key, value, 0)
        except OSError as error:
            option = key if value is None else f"{key}={value}"
            reason = _log(context_fd) or os.strerror(error.errno or 0)
            raise OSError(error.errno, f"option {option!r} refused: {reason}", about) from None


def _command(context_fd: int, about: str, command: int) -> None:
    try:
        libc.syscall("fsconfig", context_fd, command, None, None, 0)
    except OSError as error:
        reason = _log(context_fd)
        if not reason:
            raise OSError(error.errno, error.strerror, about) from None
        raise OSError(error.errno, f"{os.strerror(error.errno or 0)}: {reason}", about) from None


def _log(context_fd: int) -> str:
    """Messages the filesystem left in the context: one read(2) each, "e text" for errors, then ENODATA."""
    lines: list[str] = []
    while True:
        try:
            text = os.read(context_fd, 4096).decode(errors="replace").strip()
        except OSError as error:
            if error.errno not in (errno.ENODATA, errno.EMSGSIZE):
                raise
            return "; ".join(lines)
        if not text:
            return "; ".join(lines)
        lines.append(text[2:] if text[1:2] == " " else text)
