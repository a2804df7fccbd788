"""An initramfs of one program and a console, as the kernel unpacks it. Pure.

Source: the kernel's Documentation/driver-api/early-userspace/buffer-format.rst ("newc" cpio).
"""

from __future__ import annotations

import stat
from typing import Final

_MAGIC: Final = b"070701"
_TRAILER: Final = "TRAILER!!!"


def initramfs(init: bytes) -> bytes:
    """An archive with `init` as /init and /dev/console, which init's stdin and stdout become."""
    entries = (
        _entry(1, "dev", stat.S_IFDIR | 0o755),
        _entry(2, "dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
        _entry(3, "init", stat.S_IFREG | 0o755, init),
        _entry(0, _TRAILER, 0),
    )
    return b"".join(entries)


def _entry(ino: int, name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0)) -> bytes:
    name_bytes = name.encode() + b"\0"
    fields = (ino, mode, 0, 0, 1, 0, len(data), 0, 0, *device, len(name_bytes), 0)
    header = _MAGIC + b"".join(b"%08x" % field for field in fields)
    return _padded(header + name_bytes) + _padded(data)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
