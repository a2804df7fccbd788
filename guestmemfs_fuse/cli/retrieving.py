"""Bringing instances back that came through a kexec in a live update session. Called by mount and liveupdate.

The work is done under the instance's holder (handover/luo_retrieve), so that what was retrieved is kept from
the first moment, whatever happens to this command.
"""

from __future__ import annotations

import os
import shutil
import sys

from guestmemfs_fuse.cli.claim import claimed_anew
from guestmemfs_fuse.core.errors import DaemonError, UnknownTargetError
from guestmemfs_fuse.handover import launch
from guestmemfs_fuse.linux.liveupdate import DEVICE_PATH
from guestmemfs_fuse.metadata import instance as registry
from guestmemfs_fuse.metadata.instance import Paths

_TIMEOUT_S = 600.0
"""Making the pages of a large region huge again takes its time."""
_END_S = 10.0


def retrieve_instance(name: str, state_dir: str | None = None) -> bool:
    """Bring the instance called name back, as if it had been unmounted; False when there is no such session.

    Raises what went wrong on the way; then the holder has what there is, and this can be called again.
    """
    if not os.path.exists(DEVICE_PATH):
        return False
    with claimed_anew(lambda: registry.register(name, state_dir)) as claim:
        paths = claim.paths
        module = "guestmemfs_fuse.handover.luo_retrieve"
        argv = [sys.executable, "-P", "-m", module, paths.state_dir, name]
        try:
            launch.start_daemon(paths.state_dir, argv, _TIMEOUT_S, may_keep=True)
        except UnknownTargetError:
            if not os.path.exists(paths.config):
                registry.forget(name)
            return False
    return True


def give_up(paths: Paths) -> None:
    """Have what a retrieval that never ended well left behind let go of: session, files and metadata.

    Does nothing for an instance that is (or was) whole. Raises DaemonError when the holder does not end.
    """
    if os.path.exists(paths.config) or launch.holder_pid(paths.state_dir) is None:
        return
    launch.drop_kept(paths.state_dir)
    if not launch.wait_holder_gone(paths.state_dir, _END_S):
        raise DaemonError(f"the holder in {paths.state_dir} does not end")
    shutil.rmtree(paths.metadata, ignore_errors=True)
