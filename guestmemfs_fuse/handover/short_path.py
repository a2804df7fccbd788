"""Reaching a unix socket by directory and name, however long the path.

sun_path holds 108 bytes (unix(7)), a state directory's path may be longer; /proc/self/fd/N/NAME never is.
Called by the control server and client, by the holder and by what talks to it; so it imports only os.
"""

from __future__ import annotations

import os


class short_path:
    """`with short_path(path) as address:` a spelling of path that fits sun_path, good inside the block.

    Raises OSError when path's directory cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self._directory, self._name = os.path.split(path)

    def __enter__(self) -> str:
        flags = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
        self._dir_fd = os.open(self._directory or ".", flags)
        return f"/proc/self/fd/{self._dir_fd}/{self._name}"

    def __exit__(self, *exception: object) -> None:
        os.close(self._dir_fd)
