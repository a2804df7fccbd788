"""`guestmemfs bench` at its smallest: it runs, writes what it should, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from guestmemfs_fuse.linux import hugepages
from tests import leftovers
from tests.cli import COMMAND, Guestmemfs
from tests.require import require


def environment(guestmemfs: Guestmemfs) -> dict[str, str]:
    # Whatever a run makes is in a directory that mkdtemp made there.
    return {**os.environ, "GUESTMEMFS_BENCH_SCALE": "tiny", "TMPDIR": str(guestmemfs.directory)}


def left_behind(directory: Path) -> list[str]:
    return leftovers.wait_gone(directory).lines() + [path.name for path in directory.glob("gm-bench-*")]


def test_a_tiny_run_measures_every_area_and_leaves_nothing(guestmemfs: Guestmemfs) -> None:
    require(Path("/usr/bin/cc").exists(), "a C compiler")
    pools = hugepages.read_pools()
    out = guestmemfs.directory / "out"
    done = subprocess.run(
        [COMMAND, "bench", "--quick", "--json", "--out", out],
        env=environment(guestmemfs),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    areas = {area["name"]: area for area in found["areas"]}
    assert [name for name, area in areas.items() if area["failed"]] == []
    assert {name for name, area in areas.items() if area["rows"]} == set(areas) - {"guest"}
    assert json.loads((out / "results.json").read_text()) == found
    assert (out / "README.md").read_text().startswith("# Benchmarks")
    huge = next(row for row in areas["memory"]["rows"] if row["metric"] == "huge_fraction")
    assert huge["figures"]["guestmemfs"]["median"] == 1.0
    assert left_behind(guestmemfs.directory) == []
    assert [pool.total for pool in hugepages.read_pools()] == [pool.total for pool in pools]


def start_lifecycle(guestmemfs: Guestmemfs) -> subprocess.Popen[str]:
    """A run that has mounted an instance by now."""
    run = subprocess.Popen(
        # Who started the tests with nohup has SIGHUP ignored, which a run respects.
        ["env", "--default-signal", COMMAND, "bench", "--area", "lifecycle"],
        env=environment(guestmemfs),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stderr is not None
    for line in run.stderr:
        if "doing nothing" in line:
            break
    return run


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_interrupted_leaves_nothing(guestmemfs: Guestmemfs, number: signal.Signals) -> None:
    require(Path("/usr/bin/cc").exists(), "a C compiler")
    run = start_lifecycle(guestmemfs)
    run.send_signal(number)
    _, rest = run.communicate(timeout=60)
    assert run.returncode == 130, rest
    assert left_behind(guestmemfs.directory) == []


def test_regression_a_run_clears_away_what_a_killed_one_has_left(guestmemfs: Guestmemfs) -> None:
    require(Path("/usr/bin/cc").exists(), "a C compiler")
    alive, killed = start_lifecycle(guestmemfs), start_lifecycle(guestmemfs)
    killed.kill()
    killed.communicate(timeout=60)
    assert len(list(guestmemfs.directory.glob("gm-bench-*"))) == 2
    next_run = subprocess.run(
        [COMMAND, "bench", "--area", "guest"],
        env=environment(guestmemfs),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "clearing away" in next_run.stderr
    assert next_run.returncode == 0, next_run.stderr
    _, rest = alive.communicate(timeout=120)
    assert alive.returncode == 0, rest  # it was not touched
    assert left_behind(guestmemfs.directory) == []


def test_regression_a_page_that_cannot_be_written_is_refused_before_the_run(guestmemfs: Guestmemfs) -> None:
    instance = guestmemfs.mount()
    done = guestmemfs.run("bench", "--out", instance.mountpoint / "out", check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "cannot be written to: Invalid argument" in done.stderr
