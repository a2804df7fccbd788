"""Sizes as people write them: 4G, 512M, 1.5GiB, 2097152; and the way back.

K, M, G and T are powers of 1024, in any case, also as Ki or KiB. KB and its like are refused, since people
mean different things by them. Pure. Called by the commands.
"""

from __future__ import annotations

import re

import click

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"(\d+)(?:\.(\d+))?\s*(?:([KMGT])(?:iB?)?|B)?", re.IGNORECASE | re.ASCII)
_MAX_BYTES = (1 << 63) - 1  # loff_t


def parse_size(text: str) -> int:
    """The size in bytes. Raises ValueError for anything that is not a whole, positive number of bytes."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size: write 4G, 512M or a number of bytes")
    whole, fraction, unit = match[1], match[2] or "", (match[3] or "").upper()
    size, rest = divmod(int(whole + fraction) * _UNITS[unit], int("1" + "0" * len(fraction)))
    if rest:
        raise ValueError(f"{text!r} is not a whole number of bytes")
    if not 0 < size <= _MAX_BYTES:
        raise ValueError(f"{text!r} is out of range: at least 1 byte, less than 8388608T")
    return size


def size_text(size_bytes: int) -> str:
    """For people, to four digits: 4 GiB, 1.5 MiB, 17 B."""
    for suffix in "TGMK":
        unit = _UNITS[suffix]
        if size_bytes >= unit:
            figure = f"{size_bytes / unit:.4g}" if size_bytes % unit else f"{size_bytes // unit}"
            return f"{figure} {suffix}iB"
    return f"{size_bytes} B"


def exact_size(size_bytes: int) -> str:
    """As parse_size reads it back, in the largest unit that needs no fraction: 4G, 1026M."""
    for suffix in "TGMK":
        if size_bytes and size_bytes % _UNITS[suffix] == 0:
            return f"{size_bytes // _UNITS[suffix]}{suffix}"
    return str(size_bytes)


def size_argument(text: str) -> int:
    """For click's `type=`: parse_size, with its message shown to the user."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


def size_or_zero_argument(text: str) -> int:
    """The same for sizes that may be nothing."""
    return 0 if text.strip() == "0" else size_argument(text)
