"""Kernels to boot: where their image, configuration and modules are.

A kernel has a name, VERSION-FLAVOUR of a Debian package (6.1-cloud, 6.12-cloud, 6.12) or `luo` (built by
scripts/build-luo-kernel). scripts/vm-kernel fetches it on first use and keeps it outside the tree.
Features are asked of the configuration, never guessed from the version.
"""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from .errors import VmSetupError

REPO = Path(__file__).resolve().parents[2]


def cache_dir() -> Path:
    """Directory for kernels, initramfs images and logs, outside the tree (the scripts choose it likewise)."""
    if chosen := os.environ.get("GUESTMEMFS_CACHE"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or "/var/cache") / "guestmemfs-fuse"


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel on disk. modules_dir is None when everything it needs is built in."""

    name: str
    release: str
    image_path: Path
    config_path: Path
    modules_dir: Path | None

    def option(self, name: str) -> str | None:
        """Value of CONFIG_<name> ("y", "m", ...), None when it is not set."""
        prefix = f"CONFIG_{name}="
        with self.config_path.open() as config:
            return next((line[len(prefix) :].strip() for line in config if line.startswith(prefix)), None)


def find_kernel(name: str) -> Kernel:
    """The kernel of that name, fetched if need be.

    Raises VmSetupError with what scripts/vm-kernel had to say when there is none.
    """
    fetched = subprocess.run([REPO / "scripts/vm-kernel", name], capture_output=True, text=True, check=False)
    if fetched.returncode != 0:
        raise VmSetupError(f"kernel {name}: {fetched.stderr.strip() or 'scripts/vm-kernel failed'}")
    return kernel_in(Path(fetched.stdout.strip()), name)


def kernel_in(directory: Path, name: str) -> Kernel:
    """The kernel unpacked in directory: boot/vmlinuz-RELEASE, boot/config-RELEASE, lib/modules/RELEASE."""
    images = sorted((directory / "boot").glob("vmlinuz-*"))
    if len(images) != 1:
        raise VmSetupError(f"kernel {name}: {directory}/boot should hold one vmlinuz-*, has {len(images)}")
    release = images[0].name.removeprefix("vmlinuz-")
    modules_dir = directory / "lib/modules" / release
    return Kernel(
        name=name,
        release=release,
        image_path=images[0],
        config_path=directory / "boot" / f"config-{release}",
        modules_dir=modules_dir if modules_dir.is_dir() else None,
    )
