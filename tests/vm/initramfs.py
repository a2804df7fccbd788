"""The initramfs of the rig: busybox, the modules a kernel needs before it has a root, and tests/vm/inside/.

A cpio archive (format "newc", Documentation/driver-api/early-userspace/buffer-format.rst), not compressed:
unpacking is what costs under TCG. Kept in the cache under the hash of everything that goes into it, so two
runs share it and an edit of inside/init makes a new one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from .errors import VmSetupError
from .kernels import Kernel, cache_dir
from .modules import load_order

INSIDE = Path(__file__).resolve().parent / "inside"

_DIRECTORY, _REGULAR, _CHARACTER = 0o040000, 0o100000, 0o020000
_MOUNTPOINTS = ("bin", "dev", "lower", "modules", "new", "overlay", "proc", "rig", "sys")


def cpio_member(name: str, mode: int, data: bytes = b"", *, rdev: tuple[int, int] = (0, 0)) -> bytes:
    """One newc member: header of 13 hexadecimal fields, name and data, each padded to 4 bytes."""
    encoded = name.encode() + b"\0"
    nlink = 2 if mode & _DIRECTORY == _DIRECTORY else 1
    fields = (0, mode, 0, 0, nlink, 0, len(data), 0, 0, *rdev, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _pad4(header + encoded) + _pad4(data)


def _pad4(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def build(kernel: Kernel, modules: Iterable[str]) -> bytes:
    """The archive for that kernel with these modules loaded by init, as bytes that depend on nothing else."""
    loaded = load_order(kernel, modules)
    order = "".join(f"{name}.ko\n" for name, _ in loaded)
    members = [cpio_member(name, _DIRECTORY | 0o755) for name in _MOUNTPOINTS]
    # The kernel opens /dev/console before init can mount devtmpfs.
    members.append(cpio_member("dev/console", _CHARACTER | 0o600, rdev=(5, 1)))
    members.append(cpio_member("bin/busybox", _REGULAR | 0o755, busybox_path().read_bytes()))
    members.append(cpio_member("init", _REGULAR | 0o755, (INSIDE / "init").read_bytes()))
    for path in sorted(INSIDE.iterdir()):
        if path.name != "init":
            members.append(cpio_member(f"rig/{path.name}", _REGULAR | 0o755, path.read_bytes()))
    members.append(cpio_member("modules/order", _REGULAR | 0o644, order.encode()))
    members += [cpio_member(f"modules/{name}.ko", _REGULAR | 0o644, image) for name, image in loaded]
    members.append(cpio_member("TRAILER!!!", 0))
    return b"".join(members)


def initramfs(kernel: Kernel, modules: Iterable[str]) -> Path:
    """Path of the archive for that kernel and these modules, built if the cache lacks it."""
    names = sorted(set(modules))
    image = kernel.image_path.stat()
    key = hashlib.sha256(repr((names, kernel.release, image.st_size, image.st_mtime_ns)).encode())
    for path in (busybox_path(), Path(__file__), *sorted(INSIDE.iterdir())):
        key.update(path.name.encode() + b"\0" + path.read_bytes())
    target = cache_dir() / "initramfs" / f"{kernel.name}-{key.hexdigest()[:16]}.cpio"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.{os.getpid()}")
        partial.write_bytes(build(kernel, names))
        partial.rename(target)
    return target


def busybox_path() -> Path:
    """A busybox that runs without libraries. Raises VmSetupError when there is none."""
    found = shutil.which("busybox")
    if found is None:
        raise VmSetupError("no busybox: install busybox-static")
    # The program interpreter's name stands in the first kilobyte of every dynamically linked executable.
    if b"/ld-linux" in Path(found).read_bytes()[:1024]:
        raise VmSetupError(f"{found} is dynamically linked: install busybox-static")
    return Path(found)
