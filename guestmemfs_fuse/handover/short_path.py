"""Reaching a unix socket by directory and name, however long the path.

sun_path holds 108 bytes (unix(7)), a state directory's path may be longer; /proc/self/fd/N/NAME never is.
Called by the control server and client and by handover/launch.py's way of talking to the holder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def short_path(path: str) -> Iterator[str]:
    """A spelling of path that fits sun_path, good inside the block. Raises OSError without its directory."""
    dir_fd = os.open(os.path.dirname(path) or ".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{dir_fd}/{os.path.basename(path)}"
    finally:
        os.close(dir_fd)
