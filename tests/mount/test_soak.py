"""scripts/soak.py at its shortest, so that it works when it is wanted for hours."""

from __future__ import annotations

import os
import subprocess
import sys

from tests.cli import REPOSITORY
from tests.require import require


def test_a_moment_of_everything_at_once_ends_well() -> None:
    require(os.geteuid() == 0, "root")
    done = subprocess.run(
        [sys.executable, "scripts/soak.py", "--minutes", "0.05", "--seed", "3"],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all is well" in done.stdout
    assert "1 rounds" in done.stdout
