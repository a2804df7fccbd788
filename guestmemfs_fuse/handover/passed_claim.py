"""A command's claim on the state directory (cli/claim.py) that the daemon it becomes goes on holding.

`mount --foreground` and `serve` become the daemon by exec. Until that has the instance's own lock nothing
shows that it comes: an `umount`, a `destroy` or another `mount` would take the instance for a stopped one. So
the claim ends only when the lock is held. The command line calls `pass_on`, the daemon `release`.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Final

VARIABLE: Final = "GUESTMEMFS_CLAIM_FD"


def pass_on(environ: MutableMapping[str, str], claim_fd: int) -> None:
    """Have the program that this process becomes hold the claim; claim_fd stays the caller's if none does."""
    os.set_inheritable(claim_fd, True)
    environ[VARIABLE] = str(claim_fd)


def release(environ: MutableMapping[str, str], state_dir: str) -> None:
    """End the claim on state_dir that was passed on to this process; does nothing without one."""
    text = environ.pop(VARIABLE, "")
    try:
        fd = int(text)
        is_it = os.path.samestat(os.fstat(fd), os.stat(state_dir))
    except (ValueError, OSError):
        return  # of another process, whose variables we inherited
    if is_it:
        os.close(fd)
