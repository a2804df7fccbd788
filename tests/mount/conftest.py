"""What is left out of a plain run of the mount tests.

Tests marked `libvirt` need a libvirtd (scripts/libvirt-setup installs one) and a minute: `-m libvirt`, or
GUESTMEMFS_LIBVIRT_TESTS=1, brings them in.
"""

from __future__ import annotations

import os

import pytest

MARK = "libvirt"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARK}: a real libvirtd, not part of the default run")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.markexpr or os.environ.get("GUESTMEMFS_LIBVIRT_TESTS"):
        return
    left_out = [item for item in items if item.get_closest_marker(MARK)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker(MARK)]
