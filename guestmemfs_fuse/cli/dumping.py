"""What goes into a debug dump. Each part is collected by itself: one that fails says why, in its place.

Invariants: reads only; never touches the mountpoint; waits a few seconds at most for a daemon that is stuck.
Called by `debug-dump`.
"""

from __future__ import annotations

import os
import platform
import sys
from collections import deque
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from typing import Any
from uuid import UUID

from guestmemfs_fuse import __version__
from guestmemfs_fuse.cli import daemons, survey, unit_state
from guestmemfs_fuse.cli.survey import Finding
from guestmemfs_fuse.linux import mountinfo
from guestmemfs_fuse.metadata import journal
from guestmemfs_fuse.metadata.files import DirectoryFiles
from guestmemfs_fuse.metadata.instance import Instance
from guestmemfs_fuse.region import choose

TRANSACTIONS = 100
LOG_BYTES = 64 << 10
LOG_LINES = 500
ANSWER_S = 5.0


def collect(instance: Instance) -> dict[str, Any]:
    """The dump, ready for JSON."""
    found = survey.examine(instance)
    parts: dict[str, Callable[[], object]] = {
        "versions": _versions,
        "configuration": lambda: asdict(instance.config),
        "sight": lambda: {**asdict(found.seen), "condition": found.condition.value, "advice": found.advice},
        "mounts": lambda: _mounts(instance),
        "status": lambda: daemons.ask(instance, "status", timeout_s=ANSWER_S),
        "journal_tail": lambda: _journal_tail(instance),
        "metadata_files": lambda: _listing(choose.metadata_path(instance.config, instance.paths)),
        "state_directory": lambda: _listing(instance.paths.state_dir),
        "log": lambda: _tail(instance.paths.daemon_log),
        "unit_log": lambda: unit_state.log_of(instance.name, LOG_LINES),
        "daemon": lambda: _process(_daemon_pid(found)),
        "holder": lambda: _process(found.seen.holder_pid),
    }
    return {name: _attempt(part) for name, part in parts.items()}


def _attempt(part: Callable[[], object]) -> object:
    try:
        return _plain(part())
    except Exception as error:
        # A dump is for what nobody expected: whatever is broken must not cost the rest.
        return {"not_collected": f"{type(error).__name__}: {error}"}


def _plain(value: object) -> object:
    """Only what JSON knows; bytes as text with escapes."""
    if isinstance(value, dict):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(each) for each in value]
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace") if len(value) < 300 else f"{len(value)} bytes"
    return value if isinstance(value, (str, int, float, bool, type(None))) else str(value)


def _versions() -> dict[str, object]:
    return {
        "guestmemfs-fuse": __version__,
        "python": sys.version,
        "kernel": platform.release(),
        "machine": platform.machine(),
    }


def _mounts(instance: Instance) -> list[object]:
    ours = (instance.config.mountpoint, instance.paths.state_dir)
    mounts = mountinfo.read_mounts()
    inside = tuple(path + "/" for path in ours)
    return [asdict(each) for each in mounts if (each.mountpoint + "/").startswith(inside)]


def _journal_tail(instance: Instance) -> list[object]:
    """The last transactions, as they were written."""
    files = DirectoryFiles(choose.metadata_path(instance.config, instance.paths))
    try:
        last: deque[object] = deque(maxlen=TRANSACTIONS)
        for first in journal.segments(files)[-2:]:
            reader = journal.SegmentReader(files, first, UUID(instance.config.uuid_hex))
            for sequence, transaction in reader.transactions():
                records = [{"record": type(each).__name__, **asdict(each)} for each in transaction.records]
                last.append({"sequence": sequence, "origin": transaction.origin, "records": records})
        return list(last)
    finally:
        files.close()


def _listing(directory: str) -> list[dict[str, object]]:
    with os.scandir(directory) as entries:
        return [
            {"name": entry.name, "size_bytes": entry.stat(follow_symlinks=False).st_size}
            for entry in sorted(entries, key=lambda each: each.name)
        ]


def _tail(path: str) -> str:
    with open(path, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - LOG_BYTES))
        return file.read().decode(errors="replace")


def _daemon_pid(found: Finding) -> int | None:
    return found.pong.pid if found.pong is not None else daemons.pid_by_lock(found.instance.paths.lock)


def _process(pid: int | None) -> dict[str, object] | None:
    """What /proc says of one process; the kernel stack tells where a stuck one waits."""
    if pid is None:
        return None
    found: dict[str, object] = {"pid": pid}
    for name in ("status", "wchan", "stack", "limits", "cgroup"):
        found[name] = _attempt(partial(_lines_of, f"/proc/{pid}/{name}"))
    found["fds"] = _attempt(lambda: _links(f"/proc/{pid}/fd"))
    return found


def _lines_of(path: str) -> list[str]:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read().splitlines()


def _links(directory: str) -> dict[str, str]:
    return {name: os.readlink(os.path.join(directory, name)) for name in os.listdir(directory)[:500]}
