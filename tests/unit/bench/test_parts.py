"""The suite's small parts: the C sources, the initramfs, what programs print, what /proc says."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

from guestmemfs_fuse.bench import native, processes, suite
from guestmemfs_fuse.bench.initramfs import initramfs
from guestmemfs_fuse.bench.native import SOURCES
from guestmemfs_fuse.bench.results import Area, from_json
from guestmemfs_fuse.bench.rig import Bench
from guestmemfs_fuse.bench.scale import SCALES
from guestmemfs_fuse.bench.suite import AREAS
from guestmemfs_fuse.cli import bench as command
from guestmemfs_fuse.core.errors import UnsupportedError
from tests.cli import REPOSITORY
from tests.require import require


@pytest.mark.parametrize("name", sorted(path.stem for path in SOURCES.glob("*.c")))
def test_every_source_compiles_without_a_warning(name: str, tmp_path: Path) -> None:
    require(shutil.which("cc"), "a C compiler")
    last = native.libfuse_flags() if name == "passthrough" else []
    program = native.build(name, tmp_path, "-Wall", "-Wextra", "-Werror", last=last)
    if name != "guest":  # which would go on for ever
        assert subprocess.run([program], capture_output=True).returncode == 2


def test_without_a_compiler_that_is_what_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnsupportedError, match="no C compiler") as caught:
        native.build("memory", tmp_path)
    assert caught.value.hint is not None
    with pytest.raises(UnsupportedError, match="libfuse"):
        native.libfuse_flags()


def test_what_a_program_prints_is_read_by_name() -> None:
    assert native.parse("watching\nmedian_ns 12.5\nfailed 0\n") == {"median_ns": 12.5, "failed": 0.0}


def test_the_initramfs_is_what_cpio_understands(tmp_path: Path) -> None:
    require(shutil.which("cpio"), "cpio")
    done = subprocess.run(
        ["cpio", "-itv", "--quiet"], input=initramfs(b"program"), capture_output=True, check=True
    )
    lines = done.stdout.decode().splitlines()
    assert [line.split()[-1] for line in lines] == ["dev", "dev/console", "init"]
    assert lines[1].startswith(stat.filemode(stat.S_IFCHR | 0o600))
    assert lines[2].split()[4] == "7"


def test_a_process_is_seen_to_use_memory_and_to_sleep() -> None:
    own = processes.memory(os.getpid())
    assert own.resident_bytes >= own.share_bytes > 0
    before = processes.activity(os.getpid())
    os.sched_yield()
    sum(range(100_000))
    after = processes.activity(os.getpid())
    assert after.cpu_ns > before.cpu_ns
    assert after.switches >= before.switches


def test_the_command_knows_every_area() -> None:
    assert tuple(AREAS) == command.AREAS


def test_quick_leaves_guests_out_and_all_scales_have_their_name() -> None:
    assert not SCALES["quick"].boots
    assert all(name == scale.name for name, scale in SCALES.items())


def test_what_was_published_can_be_read_and_is_what_the_page_links_to() -> None:
    shipped = SOURCES / "published.json"
    published = from_json(shipped.read_text())
    assert all(area.name in AREAS for area in published.areas)
    assert (REPOSITORY / "docs" / "benchmarks" / "results.json").resolve() == shipped


def test_an_area_that_fails_does_not_take_the_others_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(bench: object, scale: object) -> Area:
        raise ZeroDivisionError("a bug")

    monkeypatch.setitem(suite.AREAS, "memory", fail)
    monkeypatch.setitem(suite.AREAS, "control", lambda bench, scale: Area("control", "Control path", ()))
    monkeypatch.setattr(Bench, "program", lambda self, name: Path(name))
    said: list[str] = []
    found = suite.run(SCALES["tiny"], ["memory", "control"], said.append)
    assert [area.failed for area in found.areas] == ["ZeroDivisionError: a bug", None]
    assert "memory: failed: ZeroDivisionError: a bug" in said


def test_where_programs_cannot_be_run_that_is_what_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require(shutil.which("cc"), "a C compiler")
    # As access(2) on a noexec mount says, also to root.
    allowed = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path / "calls" and allowed(path, mode))
    with pytest.raises(UnsupportedError, match="noexec") as caught:
        native.build("calls", tmp_path)
    assert "TMPDIR" in (caught.value.hint or "")
