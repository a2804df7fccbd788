"""The two filesystems every check runs on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.mount.posix.places import side_by_side
from tests.mount.posix.table import Places


@pytest.fixture(scope="session")
def places() -> Iterator[Places]:
    """One instance and one tmpfs for the whole suite; each check has directories of its own in them."""
    with side_by_side("posix", "256M") as (both, _):
        yield both
