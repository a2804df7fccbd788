"""Fixtures of the redirect tests: the programs (compiled once), and a region with a fake mount over it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.zoo import rig
from tests.zoo.rig import Build, FakeMount

PAGES = 16


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Build:
    """zoo(NAME, *compiler options): the compiled program."""
    directory = tmp_path_factory.mktemp("zoo")
    directory.chmod(0o755)
    built: dict[tuple[str, ...], Path] = {}

    def build(name: str, *options: str) -> Path:
        if (name, *options) not in built:
            built[name, *options] = rig.build(directory, name, *options)
        return built[name, *options]

    return build


@pytest.fixture
def region(private_dir: Path) -> Iterator[FakeMount]:
    """16 tagged 2M pages, all of them reserved for the region."""
    with rig.fake_mount(private_dir, PAGES) as fake:
        yield fake


@pytest.fixture
def roomy_region(private_dir: Path) -> Iterator[FakeMount]:
    """The same, and 4 more pages for private copies."""
    with rig.fake_mount(private_dir, PAGES, spare_pages=4) as fake:
        yield fake
