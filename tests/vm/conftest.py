"""How VM tests are selected, and what happens where no VM can run.

A test marked `vm_full` is left out of a plain `pytest` run: `make test-vm` (GUESTMEMFS_VM_TESTS=all), or
any -m expression, brings it in. A host that cannot boot a machine skips, and fails where GUESTMEMFS_STRICT=1.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

from .errors import VmSetupError


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "vm_full: boots a VM, not part of the default run (make test-vm)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.option.markexpr or os.environ.get("GUESTMEMFS_VM_TESTS") == "all":
        return
    left_out = [item for item in items if item.get_closest_marker("vm_full")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("vm_full")]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    try:
        return (yield)
    except VmSetupError as error:
        if os.environ.get("GUESTMEMFS_STRICT") == "1":
            raise
        pytest.skip(f"no VM on this host: {error} (GUESTMEMFS_STRICT=1 makes this a failure)")
