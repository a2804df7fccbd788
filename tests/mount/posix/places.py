"""A mount of ours and, beside it, a tmpfs of the same kernel with the same flags and the same size."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from guestmemfs_fuse.linux import mount, probe_fuse
from tests.cli import COMMAND, Guestmemfs, Instance
from tests.mount.posix.table import Places
from tests.mount.posix.tree import Place
from tests.require import require

REGION_VARIABLE = "GUESTMEMFS_POSIX_REGION"
"""Which kind of region to check; tests/mount/test_region_memfd.py runs the checks again with another."""

FLAGS = mount.MS_NOSUID | mount.MS_NODEV | mount.MS_NOEXEC


@contextmanager
def side_by_side(name: str, size: str) -> Iterator[tuple[Places, Instance]]:
    """Both filesystems, for as long as the block lasts; nothing is left of them."""
    require(os.geteuid() == 0, "root")
    require(Path("/dev/fuse").exists(), "/dev/fuse")
    require(probe_fuse.passthrough().ok, "FUSE passthrough")
    require(COMMAND.exists(), f"{COMMAND} (run scripts/setup)")
    directory = Path(os.environ["GUESTMEMFS_TEST_SESSION"]) / name
    control_path = directory / "control"
    control_path.mkdir(parents=True)
    cli = Guestmemfs(directory)
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, directory, ignore_errors=True)
        mount.mount("control", str(control_path), "tmpfs", FLAGS, f"size={size},mode=755,huge=never")
        stack.callback(mount.umount, str(control_path), mount.MNT_DETACH)
        stack.callback(cli.destroy_all)
        kind = os.environ.get(REGION_VARIABLE) or "tmpfs"
        reserve = ["--reserve"] if kind == "hugetlb" else []
        instance = cli.mount(name, "--region", kind, *reserve, size=size)
        ours, control = Place("mount", instance.mountpoint), Place("control", control_path)
        stack.callback(control.close)
        stack.callback(ours.close)
        yield Places(ours, control), instance
