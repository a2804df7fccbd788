"""`serve`, which `systemctl start` runs, on what a crash has left. Here it is the daemon of nobody's unit."""

from __future__ import annotations

import os
import signal

from tests.cli import Guestmemfs
from tests.guest.rig import wait_until

PATIENCE_S = 30.0


def test_regression_a_unit_starts_on_the_dead_mount_it_left(guestmemfs: Guestmemfs) -> None:
    """Its mountpoint "exists": systemd gives a unit up that fails too often, and the connection with it."""
    instance = guestmemfs.mount()
    (instance.mountpoint / "kept").touch()
    status = instance.status()
    os.kill(status["holder_pid"], signal.SIGKILL)
    os.kill(status["daemon_pid"], signal.SIGKILL)
    wait_until(lambda: instance.status()["state"] == "stopped", PATIENCE_S)
    config = guestmemfs.directory / f"{instance.name}.toml"
    config.write_text(f'mountpoint = "{instance.mountpoint}"\nsize = "64M"\n')
    with guestmemfs.start("serve", config) as daemon:
        try:
            wait_until(
                lambda: daemon.poll() is not None or instance.status()["state"] == "serving", PATIENCE_S
            )
            assert daemon.poll() is None, daemon.communicate()
            assert os.listdir(instance.mountpoint) == ["kept"]
        finally:
            daemon.terminate()
