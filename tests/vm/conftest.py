"""How VM tests are selected, and what happens where no VM can run.

A plain `pytest` run leaves out what is marked `vm_full` (GUESTMEMFS_VM_TESTS=all, `make test-vm`, brings it
in) and `vm_luo` (needs the kernel that scripts/build-luo-kernel makes). A -m expression that names a mark
decides itself. A host that cannot boot a machine skips, and fails where GUESTMEMFS_STRICT=1.
"""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

from .errors import VmSetupError

_MARKERS = {
    "vm_full": "boots a VM, not part of the default run (make test-vm)",
    "vm_luo": "boots the kernel made by scripts/build-luo-kernel (pytest -m vm_luo)",
}


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in _MARKERS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    absent = {name for name in _MARKERS if name not in config.option.markexpr}
    if os.environ.get("GUESTMEMFS_VM_TESTS") == "all":
        absent.discard("vm_full")
    left_out = [item for item in items if any(mark.name in absent for mark in item.iter_markers())]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    try:
        return (yield)
    except VmSetupError as error:
        if os.environ.get("GUESTMEMFS_STRICT") == "1":
            raise
        pytest.skip(f"no VM on this host: {error} (GUESTMEMFS_STRICT=1 makes this a failure)")
