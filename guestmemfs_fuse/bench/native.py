"""The inner loops in C: built when a run begins, in the run's own directory, from sources in this room.

What takes 20 nanoseconds cannot be timed from Python. Called by the areas through rig.Bench.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from guestmemfs_fuse.core.errors import GuestmemfsError, UnsupportedError

SOURCES = Path(__file__).parent
_FLAGS = ("-O2", "-std=gnu11", "-pthread")
_RUN_TIMEOUT_S = 600.0


class ToolFailedError(GuestmemfsError):
    """A program of the benchmark ended with an error; the message carries what it said."""


def build(name: str, directory: Path, *flags: str, last: Sequence[str] = ()) -> Path:
    """Compile NAME.c into `directory`; flags go before the source, `last` (libraries) behind it.

    Raises UnsupportedError when there is no C compiler, or when it does not find what it needs.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise UnsupportedError(
            "no C compiler: the inner loops of the benchmark are compiled on this host",
            hint="apt-get install gcc libc6-dev",
        )
    program = directory / name
    command = [compiler, *_FLAGS, *flags, "-o", str(program), str(SOURCES / f"{name}.c"), *last]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["no reason given"]
        errors = [line for line in said if "error" in line] or said
        raise UnsupportedError(f"cannot compile {name}.c: {errors[0]}", hint="apt-get install gcc libc6-dev")
    if not os.access(program, os.X_OK):
        raise UnsupportedError(
            f"programs cannot be run from {directory}: it is mounted noexec",
            hint="TMPDIR=DIR names a directory where they can",
        )
    return program


def libfuse_flags() -> list[str]:
    """What the compiler needs for libfuse 3. Raises UnsupportedError when its headers are not installed."""
    try:
        done = subprocess.run(["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True)
    except FileNotFoundError:
        done = None
    if done is None or done.returncode:
        raise UnsupportedError("no headers of libfuse 3", hint="apt-get install libfuse3-dev pkg-config")
    return done.stdout.split()


def run(program: Path, *arguments: object, environment: dict[str, str] | None = None) -> dict[str, float]:
    """Run a program of ours and return what it printed, as "name value" lines. Raises ToolFailedError."""
    command = [str(program), *map(str, arguments)]
    done = subprocess.run(
        command,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_RUN_TIMEOUT_S,
    )
    if done.returncode:
        raise ToolFailedError(f"{program.name} {' '.join(command[1:3])}: {done.stderr.strip()}")
    return parse(done.stdout)


def parse(text: str) -> dict[str, float]:
    """ "name value" lines as a map; other lines are passed over."""
    words = [line.split() for line in text.splitlines()]
    return {pair[0]: float(pair[1]) for pair in words if len(pair) == 2}
