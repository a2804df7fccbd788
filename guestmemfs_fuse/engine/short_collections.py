"""Keeps Python's full garbage collections short, whatever the number of inodes.

A full collection looks at every container there is and stops all threads meanwhile: with 100,000 inodes no
caller is answered for 0.1 s. Next to nothing here is ever garbage by a cycle, so what has survived one full
collection is set aside for good (gc.freeze), and the next one looks only at what came since.

Price: what is alive then and later becomes a cycle without users stays until the process ends; that is at
most what a few requests in flight hold. Reference counts free everything else, set aside or not.

Called by the daemon, once.
"""

from __future__ import annotations

import gc
from collections.abc import Mapping
from typing import Final

_THRESHOLDS: Final = (700, 5, 2)
"""Net new containers until a young collection, young ones until a middle one, middle ones until a full one:
12,600 containers, some 3 ms."""
_FULL: Final = 2


def keep_short() -> None:
    """Set aside what there is, and from now on what every full collection leaves. Twice is harmless."""
    if _set_aside not in gc.callbacks:
        gc.callbacks.append(_set_aside)
    gc.set_threshold(*_THRESHOLDS)
    gc.freeze()
    # Looks at nothing, but resets what a full collection is put off by: a quarter of what the last one left
    # (gc_collect_main's long_lived_total in CPython's Modules/gcmodule.c).
    gc.collect()


def _set_aside(phase: str, info: Mapping[str, int]) -> None:
    if phase == "stop" and info["generation"] == _FULL:
        gc.freeze()
