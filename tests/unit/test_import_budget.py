"""What each process imports before it is of use: numbers of modules, not times, which a busy host would fail.

Importing is most of what a start costs (a module about half a millisecond, a slotted dataclass as much), and
a start is what callers wait for: `mount` in a live update, every restart after a crash, `status` in a loop.

A limit is today's figure with room for a few modules. Raise it when a start really needs more; look first
(`python -X importtime`) whether the new module can be imported where it is used.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NEVER = frozenset(
    {
        *("argparse", "asyncio", "concurrent.futures", "csv", "ctypes.test", "decimal", "doctest", "email"),
        *("fractions", "http", "importlib.metadata", "multiprocessing", "pdb", "pydoc", "qemu", "ptrace"),
        *("rich", "prometheus_client", "sqlite3", "unittest", "urllib.request", "xml", "zipfile", "zoneinfo"),
    }
)
LIGHT_COMMAND = NEVER | {"ctypes", "hashlib", "logging", "random", "ssl", "subprocess", "tempfile", "trio"}
COMMAND = "import sys; sys.argv = {argv}; from guestmemfs_fuse.cli.main import main; main()"
REPORT = """
import atexit, os, sys
atexit.register(lambda: os.write({fd}, " ".join(sys.modules).encode()))
"""


@dataclass(frozen=True, slots=True)
class Budget:
    """How many modules `code` may load in all and of ours, and which it must not (with all below them)."""

    code: str
    most: int
    most_of_ours: int
    never: frozenset[str]
    options: tuple[str, ...] = ()


def _command(*argv: str) -> str:
    return COMMAND.format(argv=["guestmemfs", *argv])


BUDGETS = {
    "help": Budget(_command("--help"), 124, 8, LIGHT_COMMAND | {"json", "socket"}),
    "list": Budget(_command("list"), 142, 26, LIGHT_COMMAND | {"socket"}),
    "status": Budget(
        "import guestmemfs_fuse.cli.main, guestmemfs_fuse.cli.status, guestmemfs_fuse.cli.survey",
        160,
        34,
        LIGHT_COMMAND,
    ),
    # ctypes: a mount is detached, and the holder made a subreaper, by the command.
    "mount": Budget(
        "import guestmemfs_fuse.cli.main, guestmemfs_fuse.cli.mount, guestmemfs_fuse.cli.mounting",
        180,
        58,
        LIGHT_COMMAND - {"ctypes"},
    ),
    "holder": Budget(
        f"import sys; sys.path.append({str(ROOT)!r}); import guestmemfs_fuse.handover.holder",
        75,
        14,
        LIGHT_COMMAND | {"dataclasses", "typing", "inspect", "re", "json", "click", "msgpack"},
        ("-I", "-S"),
    ),
    # Of these trio and pyfuse3 bring 240; region.tmpfs is what opening the default kind adds.
    "daemon": Budget(
        "import guestmemfs_fuse.daemon, guestmemfs_fuse.region.tmpfs", 375, 124, NEVER | {"click"}
    ),
}


def _loaded(budget: Budget, directory: Path) -> frozenset[str]:
    """The modules a fresh interpreter has when `code` ends (`os` and `atexit` are the report's)."""
    reader, writer = os.pipe()
    with open(reader, encoding="utf-8") as report:
        command = [sys.executable, *budget.options, "-c", REPORT.format(fd=writer) + budget.code]
        try:
            subprocess.run(
                command,
                env={**os.environ, "GUESTMEMFS_RUN_DIR": str(directory)},
                pass_fds=[writer],
                stdout=subprocess.DEVNULL,
                check=True,
                timeout=60,
            )
        finally:
            os.close(writer)
        names = frozenset(report.read().split())
    return names


def _is_below(name: str, forbidden: frozenset[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:length]) in forbidden for length in range(1, len(parts) + 1))


@pytest.mark.parametrize("who", BUDGETS)
def test_a_start_imports_no_more_than_its_budget(who: str, tmp_path: Path) -> None:
    budget = BUDGETS[who]
    loaded = _loaded(budget, tmp_path)
    heavy = sorted(name for name in loaded if _is_below(name, budget.never))
    assert not heavy, f"{who} loads {heavy}"
    ours = [name for name in loaded if name.startswith("guestmemfs_fuse")]
    assert len(ours) <= budget.most_of_ours, f"{who} loads {len(ours)} modules of ours: {sorted(ours)}"
    assert len(loaded) <= budget.most, f"{who} loads {len(loaded)} modules"
