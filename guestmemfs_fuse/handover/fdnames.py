"""The names under which file descriptors are kept and handed over.

One vocabulary for the fd store (systemd or holder), the daemon and its successor. Imported by the holder,
so it imports nothing.
"""

FUSE = "fuse"
"""The /dev/fuse connection of the mount."""

REGION_PREFIX = "region-"
"""Descriptors that keep guest memory alive; only destroy may let go of them."""

LIVEUPDATE = "liveupdate"
"""A live update session that waits for the kexec (handover/luo_preserve.py): closing it undoes it."""

RETRIEVING = "liveupdate-retrieving"
"""One that came through the kexec (handover/luo_retrieve.py): closing it loses what was not retrieved yet."""

MANIFEST = "liveupdate-manifest"
"""The manifest out of it."""

CARRIED = "liveupdate-carried"
"""The manifest of an instance whose files systemd itself carries through a kexec (handover/luo_carried)."""

CONTROL = "control"
"""The control socket's listener: handed to a successor so that no client is refused meanwhile."""

HANDOVER = "handover"
"""Successor's end of the socketpair to its predecessor; never in a store."""

HANDOVER_STDERR = "handover-stderr"
"""The log a successor writes to once it is warm; never in a store."""


def valid(name: str) -> bool:
    """Whether systemd would take it: 1 to 255 printable ASCII characters without ':' (sd_notify(3))."""
    return 0 < len(name) <= 255 and all(" " <= char <= "~" and char != ":" for char in name)
