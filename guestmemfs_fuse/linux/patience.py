"""How much longer than usual everything takes on this host: a factor for the time limits of starts.

1 unless GUESTMEMFS_PATIENCE says otherwise; for emulated machines, where a start takes ten times as long.
Called by handover/launch and the vm room.
"""

from __future__ import annotations

import os

VARIABLE = "GUESTMEMFS_PATIENCE"


def patient(timeout_s: float) -> float:
    """The time limit for this host, in seconds. What is no number, or below 1, counts as 1."""
    try:
        factor = float(os.environ.get(VARIABLE, "1"))
    except ValueError:
        return timeout_s
    return timeout_s * max(1.0, factor)
