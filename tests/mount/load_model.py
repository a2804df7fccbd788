"""What must be there according to every answer a load worker got, and how that differs from what is there.

Called by load_worker.
"""

from __future__ import annotations

import mmap
import os
import stat
import zlib
from dataclasses import dataclass, field


@dataclass
class File:
    """One inode as it must be. crc: of all its bytes, where a pattern was written."""

    kind: str = "file"
    size: int = 0
    mode: int = 0o600
    mtime_ns: int | None = None
    target: str = ""
    xattrs: dict[str, bytes] = field(default_factory=dict)
    crc: int | None = None
    ino: int = 0


Tree = dict[str, int]
"""Path below DIRECTORY -> number in Model.files."""


@dataclass
class Model:
    """What was acknowledged."""

    files: dict[int, File] = field(default_factory=dict)
    names: Tree = field(default_factory=dict)

    def nlink(self, number: int) -> int:
        """How many names a file must have (a directory: 2 and its subdirectories)."""
        paths = [path for path, found in self.names.items() if found == number]
        if self.files[number].kind != "dir":
            return len(paths)
        inside = [path for path in self.names if path.startswith(paths[0] + "/")]
        return 2 + sum(self.files[self.names[path]].kind == "dir" for path in inside)


def problems(directory: str, model: Model) -> list[str]:
    """Everything that differs between the model and what is there."""
    found: list[str] = []
    there: dict[str, os.stat_result] = {}
    for parent, directories, files in os.walk(directory):
        for each in directories + files:
            path = os.path.join(parent, each)
            there[os.path.relpath(path, directory)] = os.lstat(path)
    found += [f"{name} is missing" for name in model.names if name not in there]
    found += [f"{name} should not be there" for name in there if name not in model.names]
    inos: dict[int, int] = {}
    for name, number in model.names.items():
        if name in there:
            found += _differences(directory, model, name, there[name])
            if inos.setdefault(number, there[name].st_ino) != there[name].st_ino:
                found.append(f"{name}: another inode than its other names")
    return found


def _differences(directory: str, model: Model, name: str, status: os.stat_result) -> list[str]:
    number, path = model.names[name], f"{directory}/{name}"
    held = model.files[number]
    kinds = {"file": stat.S_IFREG, "dir": stat.S_IFDIR, "symlink": stat.S_IFLNK}
    found = []
    expected = {
        "type": (stat.S_IFMT(status.st_mode), kinds[held.kind]),
        "mode": (stat.S_IMODE(status.st_mode), held.mode),
        "nlink": (status.st_nlink, model.nlink(number)),
    }
    if held.kind != "dir":
        expected["size"] = (status.st_size, held.size)
    if held.mtime_ns is not None:
        expected["mtime"] = (status.st_mtime_ns, held.mtime_ns)
    found += [
        f"{name}: {what} {is_}, not {should}" for what, (is_, should) in expected.items() if is_ != should
    ]
    if held.kind == "symlink" and os.readlink(path) != held.target:
        found.append(f"{name}: another target")
    if held.kind == "file":
        xattrs = {key: os.getxattr(path, key) for key in os.listxattr(path)}
        if xattrs != held.xattrs:
            found.append(f"{name}: xattrs {sorted(xattrs)}, not {sorted(held.xattrs)}, or other values")
        if held.crc is not None and status.st_size == held.size:
            fd = os.open(path, os.O_RDWR)
            with mmap.mmap(fd, held.size) as memory:
                if zlib.crc32(memory) != held.crc:
                    found.append(f"{name}: other bytes")
            os.close(fd)
    return found
