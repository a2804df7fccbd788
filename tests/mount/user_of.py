"""A process that uses a file of the mount the way a VMM does: maps it, closes it, and stays."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_CODE = """
import mmap, os, sys
how, path, length = sys.argv[1], sys.argv[2], int(sys.argv[3])
if how == "cwd":
    os.chdir(path)
else:
    fd = os.open(path, os.O_RDWR)
if how == "map":
    memory = mmap.mmap(fd, length)
    os.close(fd)
print("ready", flush=True)
for line in sys.stdin:
    # "w OFFSET TEXT" writes into the mapping, "r OFFSET LENGTH" answers with what is there.
    verb, offset, rest = line.split()
    start = int(offset)
    if verb == "w":
        memory[start : start + len(rest)] = rest.encode()
        print("ok", flush=True)
    else:
        print(memory[start : start + int(rest)].decode(), flush=True)
"""


class User:
    """The process, once it uses the file."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.pid = process.pid

    def write(self, offset: int, text: str) -> None:
        """Store text (no blanks) into the mapping."""
        assert self._ask(f"w {offset} {text}") == "ok"

    def read(self, offset: int, length_bytes: int) -> str:
        """Load from the mapping."""
        return self._ask(f"r {offset} {length_bytes}")

    def _ask(self, request: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()


@contextmanager
def user_of(path: Path, how: str = "map", length_bytes: int = 1 << 21) -> Iterator[User]:
    """how: "map" the first length_bytes, "open", or "cwd" for a directory."""
    process = subprocess.Popen(
        [sys.executable, "-c", _CODE, how, str(path), str(length_bytes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield User(process)
    finally:
        process.communicate(timeout=30)
