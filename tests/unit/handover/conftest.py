"""What several tests of this room begin with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.unit.handover.fake_luo import FakeStore


@pytest.fixture
def store() -> Iterator[FakeStore]:
    made = FakeStore()
    yield made
    for name in list(made.fds):
        made.remove(name)
