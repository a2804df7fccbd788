"""Descriptors 0, 1 and 2, which whoever starts us may have closed.

What is opened next would get their numbers, and a holder lets go of whatever stands there.
Called by the entry points before anything else.
"""

from __future__ import annotations

import os
import sys

_filled: list[int] = []


def fill() -> None:
    """Put /dev/null in the place of what is closed; Python's own streams of these exist afterwards."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
        _filled.append(fd)
    os.close(fd)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))


def close_filled_on_exec() -> None:
    """For a program that takes our place: closed is what was closed."""
    for fd in _filled:
        os.set_inheritable(fd, False)
