"""Folding in a process of its own, beside a store that goes on writing; real files."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from guestmemfs_fuse.core.errors import ExitCode
from guestmemfs_fuse.metadata import compact, journal, snapshot
from guestmemfs_fuse.metadata.files import DirectoryFiles
from guestmemfs_fuse.metadata.store import Store
from tests.unit.metadata.workload import OTHER_REGION, REGION, dump_of, fresh_state, history

DONE, DUMPS = history(41, 60)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[DirectoryFiles]:
    directory = DirectoryFiles(tmp_path)
    yield directory
    directory.close()


def store_of(files: DirectoryFiles, count: int) -> Store:
    made = Store.create(files, REGION, fresh_state())
    for transaction in DONE[:count]:
        made.append(transaction)
    return made


def run(files: DirectoryFiles, region: object = REGION) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "guestmemfs_fuse.metadata.compact", files.path, str(region)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_process_folds_what_is_sealed_while_the_store_goes_on(files: DirectoryFiles) -> None:
    made = store_of(files, 20)
    made.rotate()
    for transaction in DONE[20:30]:
        made.append(transaction)
    done = run(files)
    assert (done.returncode, done.stdout, done.stderr) == (ExitCode.OK, "", "")
    assert files.names() == [journal.segment_name(21), snapshot.snapshot_name(20)]
    made.append(DONE[30])
    made.note_compaction(took_ns=5)
    assert (made.statistics().segments, made.statistics().last_compaction_ns) == (1, 5)
    made.close()
    assert dump_of(Store.open(files, REGION).state) == DUMPS[31]


def test_with_nothing_to_fold_it_says_nothing_and_succeeds(files: DirectoryFiles) -> None:
    store_of(files, 3).close()
    before = files.names()
    assert run(files).returncode == ExitCode.OK
    assert files.names() == before


def test_it_refuses_in_one_line_and_by_exit_code(files: DirectoryFiles, tmp_path: Path) -> None:
    made = store_of(files, 3)
    made.rotate()
    made.close()
    foreign = run(files, OTHER_REGION)
    assert foreign.returncode == ExitCode.DAMAGED
    assert foreign.stderr.count("\n") == 1
    assert compact.main([]) == ExitCode.USAGE
    assert compact.main([files.path, "not a uuid"]) == ExitCode.USAGE
    assert snapshot.snapshots(files) == [0]


def test_a_directory_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    priority = os.getpriority(os.PRIO_PROCESS, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "nice", lambda increment: priority)
        assert compact.main([str(tmp_path / "missing"), str(REGION)]) == ExitCode.FAILED
    assert "missing" in capsys.readouterr().err


def test_it_imports_nothing_heavy() -> None:
    """It runs beside the daemon, often: no asyncio, trio, subprocess, click."""
    program = "import sys, guestmemfs_fuse.metadata.compact; print(*sorted(sys.modules))"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    for heavy in ("asyncio", "trio", "subprocess", "click", "rich", "hashlib", "ctypes", "json"):
        assert heavy not in loaded.stdout.split(), heavy
