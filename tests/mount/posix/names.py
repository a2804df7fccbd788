"""Names and paths at the limits: NAME_MAX 255 and PATH_MAX 4096 with its final NUL (linux/limits.h)."""

from __future__ import annotations

from typing import Final

LONGEST_NAME: Final = "n" * 255
TOO_LONG_NAME: Final = "n" * 256
LONGEST_PATH: Final = "./" * 2047 + "x"
TOO_LONG_PATH: Final = "./" * 2047 + "xx"
assert len(LONGEST_PATH) == 4095
