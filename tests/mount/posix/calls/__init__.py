"""The system calls the checks make, by name; they run inside a user's process (user.py).

One function a call, named as in man-pages section 2, with paths relative to the check's directory. Handles
(descriptors, mappings) are numbers of that process; `forget_all` closes what a check left open. Every public
function of the modules here is a call; three that make calls by name are in this file.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from tests.mount.posix.calls import around, attributes, data, locks, mapping, names, opening, process, trees


def several(steps: list[tuple[object, ...]]) -> list[object]:
    """Make calls in a row: (name, arguments...) each; what they returned."""
    return [CALLS[str(name)](*args) for name, *args in steps]


def signal_of(name: str, *args: object) -> str:
    """Make a call in a child, and say which signal ended it ("none" when it came through)."""
    child = os.fork()
    if child == 0:
        try:
            CALLS[name](*args)
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else "none"


def begin(base_fd: int, name: str, steps: list[tuple[object, ...]]) -> None:
    """Make a directory for a check, in which everybody may do everything, enter it and make what is given."""
    os.mkdir(name, dir_fd=base_fd)
    os.chmod(name, 0o777, dir_fd=base_fd)
    process.enter(base_fd, name)
    several(steps)


CALLS: dict[str, Callable[..., object]] = {
    name.rstrip("_"): function
    for module in (process, opening, names, attributes, data, mapping, locks, trees, around)
    for name, function in vars(module).items()
    if callable(function) and not name.startswith("_")
}
CALLS |= {"several": several, "signal_of": signal_of, "begin": begin}
