"""`python -m tests.vm.inside_mount ARGUMENTS`: the command line, with time for daemons that are emulated.

`mount` gives a daemon ten seconds; on a busy host with emulation its imports alone take as long.
"""

from __future__ import annotations

from guestmemfs_fuse.cli.main import main
from guestmemfs_fuse.handover import launch

READY_TIMEOUT_S = 90.0

if __name__ == "__main__":
    launch.start_daemon.__defaults__ = (READY_TIMEOUT_S,)
    main()
