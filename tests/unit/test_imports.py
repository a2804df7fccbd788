"""Holds the shape of the house: imports point downwards only (DESIGN: section 5), and stay light.

Everything is read from the source (AST), so a forbidden import is found even where no test runs.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

PACKAGE = "guestmemfs_fuse"
ROOT = Path(__file__).resolve().parents[2] / PACKAGE

# From the roof down. A room may use rooms of lower floors; rooms on one floor do not know each other.
FLOORS = (
    {"cli"},
    {"bench"},
    {"daemon"},
    {"vm", "redirect"},
    {"fuse"},
    {"control"},
    {"handover"},
    {"engine"},
    {"region"},
    {"metadata"},
    {"core"},
    {"linux"},
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# Bytes and values in, bytes and values out.
PURE = ("core", "control.protocol", "fuse.abi", "fuse.wire", "metadata.framing", "metadata.codec")
IMPURE_MODULES = frozenset(
    {
        "asyncio",
        "ctypes",
        "datetime",
        "fcntl",
        "io",
        "mmap",
        "multiprocessing",
        "os",
        "pathlib",
        "random",
        "secrets",
        "select",
        "selectors",
        "shutil",
        "signal",
        "socket",
        "subprocess",
        "sys",
        "tempfile",
        "threading",
        "time",
        "trio",
        "pyfuse3",
    }
)
TOO_HEAVY_FOR_THE_DAEMON = frozenset({"click", "rich", "asyncio", "qemu", "ptrace", "multiprocessing"})


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module; is_eager: it happens when the importer is imported."""

    importer: str
    imported: str
    line: int
    is_eager: bool

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.imported}"


def _module_name(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> dict[str, tuple[Import, ...]]:
    """Every module of the package with what it imports."""
    return {
        _module_name(path): tuple(_imports(_module_name(path), ast.parse(path.read_text()), True))
        for path in sorted(ROOT.rglob("*.py"))
    }


def _imports(importer: str, node: ast.AST, is_eager: bool) -> Iterator[Import]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield Import(importer, alias.name, child.lineno, is_eager)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"{importer}:{child.lineno} imports relatively; name the package"
            for alias in child.names:
                yield Import(importer, f"{child.module}.{alias.name}", child.lineno, is_eager)
        elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.dump(child.test):
            # Only the type checker sees the body; what it names still has to be downstairs.
            for statement in child.body:
                yield from _imports(importer, ast.Module([statement], []), False)
            for statement in child.orelse:
                yield from _imports(importer, ast.Module([statement], []), is_eager)
        else:
            is_function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from _imports(importer, child, is_eager and not is_function)


def _room(module: str) -> str | None:
    """The room of a module of ours; None for the package itself and for other people's modules."""
    parts = module.split(".")
    return parts[1] if parts[0] == PACKAGE and len(parts) > 1 else None


def _is_below(importer: str, imported: str) -> bool:
    own, other = _room(importer), _room(imported)
    if other is None or other == own or other == "__version__":
        return True
    if own is None:
        return False  # the package's __init__ is imported by everyone and so imports nothing
    if own == "linux":
        return imported.startswith(f"{PACKAGE}.core.errors.")
    if own == "core":
        return False
    return FLOOR_OF[own] < FLOOR_OF[other]


def test_every_module_is_in_a_room_that_has_a_floor() -> None:
    strangers = {room for module in modules() if (room := _room(module)) is not None} - set(FLOOR_OF)
    assert not strangers, f"say in FLOORS where these belong: {sorted(strangers)}"


def test_imports_point_downwards_only() -> None:
    wrong = [str(i) for found in modules().values() for i in found if not _is_below(i.importer, i.imported)]
    assert not wrong, "\n".join(wrong)


def test_only_linux_knows_ctypes() -> None:
    wrong = [
        str(i)
        for found in modules().values()
        for i in found
        if i.imported.split(".")[0] == "ctypes" and _room(i.importer) != "linux"
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("pure", PURE)
def test_pure_modules_know_no_operating_system(pure: str) -> None:
    name = f"{PACKAGE}.{pure}"
    inside = {m: found for m, found in modules().items() if m == name or m.startswith(name + ".")}
    assert inside, f"{name} is gone: take it off the list"
    wrong = [str(i) for found in inside.values() for i in found if i.imported.split(".")[0] in IMPURE_MODULES]
    assert not wrong, "\n".join(wrong)


def _reachable(start: str) -> dict[str, str]:
    """Modules that importing `start` imports, with the import that pulled each in."""
    assert start in modules()
    reached = {start: "the start"}
    waiting = [start]
    while waiting:
        for found in modules().get(waiting.pop(), ()):
            if not found.is_eager:
                continue
            parts = found.imported.split(".")
            # `from a.b import c`: c is a module or a name in one; a and a.b are imported either way.
            for end in range(1, len(parts) + 1):
                name = ".".join(parts[:end])
                is_ours = parts[0] == PACKAGE
                if name not in reached and (name in modules() if is_ours else end == 1):
                    reached[name] = str(found)
                    waiting.append(name)
    return reached


@pytest.mark.parametrize("start", ["daemon", "handover.holder"])
def test_long_lived_processes_import_nothing_heavy(start: str) -> None:
    reached = _reachable(f"{PACKAGE}.{start}")
    wrong = [how for name, how in reached.items() if name.split(".")[0] in TOO_HEAVY_FOR_THE_DAEMON]
    assert not wrong, "\n".join(wrong)


def test_the_holder_imports_the_standard_library_only() -> None:
    reached = _reachable(f"{PACKAGE}.handover.holder")
    known = {*sys.stdlib_module_names, PACKAGE}
    wrong = [how for name, how in reached.items() if name.split(".")[0] not in known]
    assert not wrong, "\n".join(wrong)
