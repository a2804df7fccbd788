"""Builds tiny_guest.c: the guest for QEMU inside a VM, where booting Linux would take minutes.

It talks as tests/guest/init does, so tests.guest.rig.Guest drives it: Guest(boot_files(), ...).
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from tests.guest.rig import BootFiles

from .kernels import cache_dir

_SOURCE = Path(__file__).with_suffix(".c")
_FLAGS = (
    *("-m32", "-march=i686", "-Os", "-std=gnu11", "-Wall", "-Wextra", "-Werror"),
    *("-ffreestanding", "-fno-pic", "-no-pie", "-fno-stack-protector", "-fcf-protection=none"),
    *("-fno-asynchronous-unwind-tables", "-nostdlib", "-static"),
    # One segment: the multiboot header must be within the first 8 KiB of the file.
    *("-Wl,--build-id=none", "-Wl,-N", "-Wl,-Ttext=0x100000", "-Wl,-z,noexecstack"),
    "-Wl,--no-warn-rwx-segments",
)


def boot_files() -> BootFiles:
    """The image, compiled if the cache lacks it; also in the initramfs' place, which it does not look at.

    Raises CalledProcessError when there is no compiler, which scripts/setup sees to.
    """
    key = hashlib.sha256(_SOURCE.read_bytes() + repr(_FLAGS).encode()).hexdigest()[:16]
    image = cache_dir() / "guest" / f"tiny-{key}"
    if not image.exists():
        image.parent.mkdir(parents=True, exist_ok=True)
        partial = image.with_name(f".{image.name}.{os.getpid()}")
        subprocess.run(["gcc", *_FLAGS, "-o", partial, _SOURCE], check=True, stderr=sys.stderr)
        partial.rename(image)
    return BootFiles(image, image)
