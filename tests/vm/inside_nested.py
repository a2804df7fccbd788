"""Runs inside the VM (test_tiny_guest.py): a QEMU guest there, and how long it took to get going."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.guest.rig import Guest

from . import tiny_guest


def main(log_path: str) -> None:
    directory = Path(tempfile.mkdtemp())
    memory = Path("/dev/shm/ram")
    memory.touch()
    start_s = time.monotonic()
    with Guest(tiny_guest.boot_files(), directory, memory, 64, pattern_mib=2) as guest:
        guest.start()
        print(f"first count after {time.monotonic() - start_s:.1f} s")
        guest.wait_count(3, 30)
        same = guest.pattern_now() == guest.pattern_at_boot()
        print(
            f"third count, pattern {'intact' if same else 'BROKEN'}, after {time.monotonic() - start_s:.1f} s"
        )
    shutil.copy(guest.serial_log, log_path)
    sys.exit(not same)


main(sys.argv[1])
