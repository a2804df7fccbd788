"""The fixture of the holder's tests, as a pytest plugin."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mount.holder_stage import Stage


@pytest.fixture
def stage(private_dir: Path) -> Iterator[Stage]:
    state_dir = private_dir / "state"
    state_dir.mkdir()
    stage = Stage(state_dir)
    yield stage
    stage.end()
