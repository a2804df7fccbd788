"""The suite's own promises: a skip names what is missing or fails, and what is left behind is found."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from guestmemfs_fuse.linux.process import is_alive
from tests import leftovers
from tests.cli import REPOSITORY

SUITE = """
import subprocess, pytest
from tests.require import require

def test_that_lacks_something():
    require(False, "a unicorn")

@pytest.mark.skip(reason="no reason")
def test_that_is_skipped():
    pass

def test_that_passes():
    require(True, "nothing")
"""

LEAKING = """
import subprocess

def test_that_leaves_a_process_behind():
    subprocess.Popen(["sleep", "600"], start_new_session=True)
"""


def run_suite(tmp_path: Path, source: str, strict: str) -> subprocess.CompletedProcess[str]:
    # Below the repository's conftest, so that its hooks are what is tested, but out of everyone's way.
    suite = tmp_path / "test_inner.py"
    suite.write_text(source)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "no:cacheprovider",
        "-p",
        "tests.conftest",
        "-ra",
        str(suite),
    ]
    environment = {**os.environ, "GUESTMEMFS_STRICT": strict, "GUESTMEMFS_TEST_PATIENCE_S": "0.1"}
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True)


def test_a_skip_names_what_is_missing(tmp_path: Path) -> None:
    done = run_suite(tmp_path, SUITE, strict="0")
    assert done.returncode == 0
    assert "needs a unicorn (GUESTMEMFS_STRICT=1 makes this a failure)" in done.stdout
    assert "1 passed, 2 skipped" in done.stdout


def test_strict_mode_fails_every_skip(tmp_path: Path) -> None:
    done = run_suite(tmp_path, SUITE, strict="1")
    assert done.returncode == 1
    assert "this host lacks a unicorn" in done.stdout
    assert "this skip is a failure: Skipped: no reason" in done.stdout
    assert "1 failed, 1 passed, 1 error" in done.stdout  # a skip before the call counts as an error


def test_a_process_left_behind_fails_the_session_and_is_ended(tmp_path: Path) -> None:
    done = run_suite(tmp_path, LEAKING, strict="0")
    assert done.returncode == 1
    assert "1 passed" in done.stdout
    (leak,) = [line for line in done.stdout.splitlines() if line.startswith("LEAKED process")]
    assert leak.endswith("sleep 600")
    pid = int(leak.split()[2].rstrip(":"))
    assert not is_alive(pid)  # whoever is PID 1 here may take its time to reap it


def wait_for_exec(process: subprocess.Popen[bytes]) -> None:
    """Popen returns before the kernel has set up the program's stack: until then /proc has no words of it."""
    environ, deadline_s = Path(f"/proc/{process.pid}/environ"), time.monotonic() + 30
    while not environ.read_bytes():
        assert time.monotonic() < deadline_s, "exec has not finished"
        time.sleep(0.001)


def test_what_belongs_to_a_directory_is_known_by_environment_or_command_line(private_dir: Path) -> None:
    by_environment = subprocess.Popen(["cat"], stdin=subprocess.PIPE, env={"X": f"{private_dir}/run"})
    by_command = subprocess.Popen(["tail", "-f", "/dev/null", "--", str(private_dir / "nothing")], stderr=-3)
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as somebody_elses:
        try:
            for process in (by_environment, by_command):
                wait_for_exec(process)
            found = {pid for pid, _ in leftovers.find(private_dir).processes}
            assert {by_environment.pid, by_command.pid} <= found and somebody_elses.pid not in found
            leftovers.sweep(private_dir)
            assert by_environment.wait() == by_command.wait() == -9
            assert somebody_elses.poll() is None
        finally:
            for process in (by_environment, by_command):
                process.kill()
                process.communicate()


@pytest.mark.parametrize("value", ["", "0"])
def test_strictness_can_be_switched_off(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.require import is_strict

    monkeypatch.setenv("GUESTMEMFS_STRICT", value)
    assert not is_strict()
