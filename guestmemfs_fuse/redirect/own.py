"""Recognising our own daemons among the tracees.

A traced script may start an instance. Its daemon answers the tracer's questions about layouts, so the tracer
must not hold it at a system call while it waits for the answer. Called by the tracer after an exec.
"""

from __future__ import annotations

import os

_PACKAGE = b"guestmemfs_fuse"


def is_ours(pid: int) -> bool:
    """Whether a process runs a daemon or holder of ours; False when it is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            arguments = file.read().split(b"\0")
    except OSError:
        return False
    return runs_our_module(arguments)


def runs_our_module(arguments: list[bytes]) -> bool:
    """Whether a command line is `python [options] -m guestmemfs_fuse.X` or `python [options] .../X.py`."""
    if not os.path.basename(arguments[0]).startswith(b"python"):
        return False
    for index, argument in enumerate(arguments[1:], 1):
        if argument == b"-m":
            module = arguments[index + 1] if index + 1 < len(arguments) else b""
            return module.split(b".")[0] == _PACKAGE
        if not argument.startswith(b"-"):
            return _PACKAGE in argument.split(b"/") and argument.endswith(b".py")
    return False
