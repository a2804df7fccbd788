"""Whether we may do what mounting takes: CAP_SYS_ADMIN where it counts, in the initial user namespace.

Elsewhere the kernel may well let us mount, and refuses to register a backing file (fs/fuse/passthrough.c asks
for the capability in the initial namespace). Called by the probes and by commands that are about to mount.
"""

from __future__ import annotations

import os

_INIT_USER_NAMESPACE = "user:[4026531837]"  # PROC_USER_INIT_INO, include/linux/proc_ns.h
_CAP_SYS_ADMIN = 21

NEEDS_ROOT = "run as root (sudo), outside of unprivileged containers"


def lacking_privilege() -> str | None:
    """What we lack, in words; None when nothing. Raises OSError without /proc."""
    with open("/proc/self/status") as file:
        caps = next(int(line.split()[1], 16) for line in file if line.startswith("CapEff:"))
    if not caps >> _CAP_SYS_ADMIN & 1:
        return f"uid {os.geteuid()} without CAP_SYS_ADMIN"
    if os.readlink("/proc/self/ns/user") != _INIT_USER_NAMESPACE:
        return "inside a user namespace: mounts and passthrough are refused"
    return None
