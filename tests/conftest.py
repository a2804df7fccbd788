"""Shared by all tests: strict mode, private directories, the real command line, and the leak check.

Strict mode (GUESTMEMFS_STRICT=1, what CI uses) turns every skip into a failure. At the end of a session
whatever still belongs to it (processes, mounts, reserved huge pages) is listed, ended, and fails the run.
"""

from __future__ import annotations

import itertools
import os
import signal
import tempfile
import time
from collections.abc import Generator, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests import leftovers
from tests.cli import COMMAND, Guestmemfs, Instance
from tests.require import STRICT_VARIABLE, is_strict, require

SESSION_VARIABLE = "GUESTMEMFS_TEST_SESSION"
HUGEPAGES = Path("/sys/kernel/mm/hugepages")
_session_directory = pytest.StashKey[Path]()
_hugepages_before = pytest.StashKey[dict[str, int]]()
_leaks = pytest.StashKey[list[str]]()
_numbers = itertools.count(1)


# Hypothesis gives an example 200 ms, and making them all a second or so: a machine that was busy with other
# things for that long failed whichever test was running. None of them is about time.
hypothesis.settings.register_profile(
    "unhurried", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("unhurried")


# -- strict mode ------------------------------------------------------------------------------------


def _fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    if not (is_strict() and report.skipped) or hasattr(report, "wasxfail"):
        return
    reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    report.outcome = "failed"
    report.longrepr = f"{STRICT_VARIABLE} is set, so this skip is a failure: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _fail_if_skipped(report)
    return report


# -- the leak check ---------------------------------------------------------------------------------


def _hugepages_in_use() -> dict[str, int]:
    """Per huge-page size: pages taken or reserved. Machine-wide, so only strict mode compares them."""
    return {
        pool.name: int((pool / "nr_hugepages").read_text())
        - int((pool / "free_hugepages").read_text())
        + int((pool / "resv_hugepages").read_text())
        for pool in (HUGEPAGES.iterdir() if HUGEPAGES.is_dir() else ())
    }


def _hugepages_left(before: dict[str, int]) -> list[str]:
    """What is in use more than before, a line each. Memory of what has ended comes back a little later."""
    deadline_s = time.monotonic() + leftovers.GONE_WITHIN_S
    while True:
        more = {pool: pages - before.get(pool, 0) for pool, pages in _hugepages_in_use().items()}
        left = [f"{pages} more of {pool} in use than before" for pool, pages in more.items() if pages > 0]
        if not left or time.monotonic() > deadline_s:
            return left
        time.sleep(leftovers.POLL_S)


def pytest_configure(config: pytest.Config) -> None:
    # A shell starts what runs in its background with SIGINT ignored, and every child would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # A short path: unix socket addresses end at 107 bytes. Every child inherits it and is known by it.
    directory = Path(tempfile.mkdtemp(prefix="gm-"))
    os.environ[SESSION_VARIABLE] = str(directory)
    config.stash[_session_directory] = directory
    config.stash[_hugepages_before] = _hugepages_in_use()
    config.stash[_leaks] = []


@pytest.hookimpl(tryfirst=True)  # before pytest removes temporary directories that may still be mounted on
def pytest_sessionfinish(session: pytest.Session) -> None:
    config = session.config
    directory = config.stash[_session_directory]
    leaks = config.stash[_leaks]
    if left := leftovers.wait_gone(directory):
        leaks += left.lines()
        leftovers.sweep(directory)
    if is_strict():
        leaks += _hugepages_left(config.stash[_hugepages_before])
    leftovers.remove_directory(directory)
    if leaks:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    for leak in config.stash[_leaks]:
        terminalreporter.write_line(f"LEAKED {leak}", red=True)


# -- fixtures ---------------------------------------------------------------------------------------


@pytest.fixture
def private_dir(pytestconfig: pytest.Config) -> Iterator[Path]:
    """An empty directory with a short path; what belongs to it at the end is ended and fails the test."""
    directory = pytestconfig.stash[_session_directory] / f"{next(_numbers):04d}"
    directory.mkdir()
    yield directory
    left = leftovers.wait_gone(directory)
    if left:
        leftovers.sweep(directory)
    leftovers.remove_directory(directory)
    assert not left, "the test left behind: " + "; ".join(left.lines())


@pytest.fixture
def guestmemfs(private_dir: Path) -> Iterator[Guestmemfs]:
    """The real command line with a run directory of its own; its instances are destroyed at the end."""
    require(os.geteuid() == 0, "root")
    require(Path("/dev/fuse").exists(), "/dev/fuse")
    require(COMMAND.exists(), f"{COMMAND} (run scripts/setup)")
    cli = Guestmemfs(private_dir)
    yield cli
    cli.destroy_all()


@pytest.fixture
def instance(guestmemfs: Guestmemfs) -> Instance:
    """A mounted 64 MiB tmpfs instance."""
    return guestmemfs.mount()
