"""Shared by the tests with a guest: what it boots."""

from __future__ import annotations

import shutil

import pytest

from tests.guest.rig import QEMU, BootFiles, boot_files
from tests.require import require


@pytest.fixture(scope="session")
def boot() -> BootFiles:
    """Kernel and initramfs."""
    require(shutil.which(QEMU), f"{QEMU} (run scripts/setup)")
    return boot_files()
