"""What the tests with an unprivileged user of the mount need before they begin."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.cli import Instance
from tests.mount.hostile import UID


@pytest.fixture
def home(instance: Instance) -> Path:
    """A directory that belongs to the user; the way to it is open."""
    for parent in instance.mountpoint.parents:
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(0o755)
    home = instance.mountpoint / "home"
    home.mkdir()
    os.chown(home, UID, UID)
    return home
