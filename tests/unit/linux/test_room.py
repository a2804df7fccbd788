"""The promise of this room: nobody else talks to the kernel through ctypes."""

from __future__ import annotations

import ast
from pathlib import Path

import guestmemfs_fuse

PACKAGE = Path(guestmemfs_fuse.__file__).parent


def imported_modules(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def test_only_one_module_calls_through_ctypes_and_one_keeps_others_from_it() -> None:
    users = {
        p.relative_to(PACKAGE / "linux").name: names
        for p in PACKAGE.rglob("*.py")
        if (names := {n for n in imported_modules(p) if n.split(".")[0] == "ctypes"})
    }
    assert users == {"libc.py": {"ctypes"}, "light_imports.py": {"ctypes.util"}}


def test_this_room_imports_nothing_above_it() -> None:
    for path in (PACKAGE / "linux").glob("*.py"):
        ours = {n for n in imported_modules(path) if n.startswith("guestmemfs_fuse")}
        allowed = ("guestmemfs_fuse.linux", "guestmemfs_fuse.core.errors")
        assert all(name.startswith(allowed) for name in ours), path
