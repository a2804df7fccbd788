"""`bench` as a command: what is refused before minutes are spent, and what is shown after them."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from guestmemfs_fuse.bench import suite
from guestmemfs_fuse.bench.results import OURS, Area, Results, row, to_json
from guestmemfs_fuse.cli import bench as command
from guestmemfs_fuse.cli import host

ROW = row("read", "read by one thread", "B/s", {OURS: [9e9], "tmpfs": [9e9]}, control="tmpfs", better="more")
MACHINE = {"cpu": "a CPU", "cpus": 2, "kernel": "6.18"}
FOUND = Results(MACHINE, "quick", "1", 1.0, (Area("memory", "Memory path", (ROW,)),))


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Runs that were made; none measures anything."""
    made: list[str] = []

    def run(scale: object, names: list[str], say: object, *, guest_kernel: Path | None) -> Results:
        made.append(" ".join(names))
        return FOUND

    monkeypatch.setattr(suite, "run", run)
    monkeypatch.setattr(host, "require_root", lambda: None)
    monkeypatch.setattr(host, "require_fuse", lambda: None)
    monkeypatch.setattr(command.signal, "signal", lambda number, handler: None)
    return made


def invoke(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(command.bench, [str(argument) for argument in arguments])
    return done.exit_code, done.output


def test_regression_out_that_is_a_file_is_refused_before_the_run(runs: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    code, output = invoke("--quick", "--out", tmp_path / "file")
    assert (code, runs) == (2, [])
    assert "cannot be written to" in output


def test_regression_a_guest_kernel_that_is_not_there_is_refused_before_the_run(runs: list[str]) -> None:
    """Guests were left out, with exit code 0."""
    code, output = invoke("--guest-kernel", "/nonexistent/vmlinuz")
    assert (code, runs) == (2, [])
    assert "/nonexistent/vmlinuz" in output


@pytest.mark.parametrize("content", [b"\xff\xfe", b"{}", b"no JSON"])
def test_regression_against_what_is_no_result_names_the_file(
    runs: list[str], tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "other.json").write_bytes(content)
    code, output = invoke("--against", tmp_path / "other.json")
    assert (code, runs) == (2, [])
    assert "other.json" in output


def test_both_machines_are_named_beside_the_figures(runs: list[str], tmp_path: Path) -> None:
    published = Results({"cpu": "another CPU", "cpus": 64}, "bench", "1", 9.0, FOUND.areas)
    (tmp_path / "other.json").write_text(to_json(published))
    code, output = invoke("--against", tmp_path / "other.json")
    assert code == 0
    assert "here: a CPU, 2 CPUs, Linux 6.18, `quick` run" in output
    assert "published: another CPU, 64 CPUs, `bench` run" in output


def test_what_was_found_is_shown_also_when_it_cannot_be_written(
    runs: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(found: Results, directory: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(command, "write", fail)
    code, output = invoke("--out", tmp_path / "out")
    assert code == 1
    assert "read by one thread" in output


def test_regression_plots_of_an_earlier_run_go_with_its_figures(runs: list[str], tmp_path: Path) -> None:
    """A run without guests left the plot of the guests before beside a page that does not show it."""
    (tmp_path / "guest.svg").touch()
    (tmp_path / "other.svg").touch()
    assert invoke("--out", tmp_path)[0] == 0
    assert not (tmp_path / "guest.svg").exists()
    assert (tmp_path / "other.svg").exists()
