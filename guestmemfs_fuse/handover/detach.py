"""What makes the holder a process of its own. Used by the holder only; standard library only."""

from __future__ import annotations

import os
import resource

COMM = "gmemfs-holder"
OOM_SCORE_ADJ = -900
_OF_THE_SHELL = (resource.RLIMIT_FSIZE, resource.RLIMIT_CPU, resource.RLIMIT_AS, resource.RLIMIT_DATA)
"""What `ulimit -f -t -v -d` set where `mount` was typed: files larger than that could not grow, whoever asks,
and the daemon would be killed once it had worked for that long. systemd's services have none of them."""


def detach(keep: tuple[int, ...]) -> None:
    """Let go of terminal, directory, limits and descriptors of whoever started us, except those of keep."""
    os.chdir("/")
    os.umask(0o077)
    null = os.open(os.devnull, os.O_RDWR)
    for target in (0, 1, 2):
        os.dup2(null, target)
    for name in os.listdir("/proc/self/fd"):
        if (fd := int(name)) > 2 and fd not in keep:
            try:
                os.close(fd)
            except OSError:
                pass  # the listing's own
    for fd in keep:
        os.set_inheritable(fd, False)
    _write("/proc/self/comm", COMM)
    # Killing us or the daemon would free no guest memory, but lose it. The daemon inherits this.
    _write("/proc/self/oom_score_adj", str(OOM_SCORE_ADJ))
    # One descriptor per file of a memfd region.
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for limit in _OF_THE_SHELL:
        _soft, hard = resource.getrlimit(limit)
        for wanted in (hard, resource.RLIM_INFINITY):  # the second needs CAP_SYS_RESOURCE
            try:
                resource.setrlimit(limit, (wanted, wanted))
            except (OSError, ValueError):
                pass


def _write(path: str, text: str) -> None:
    try:
        with open(path, "w", encoding="ascii") as file:
            file.write(text)
    except OSError:
        pass  # nice to have
