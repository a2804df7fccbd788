"""What an instance can be made with, and what the value of each setting may be: said once for -o and files.

Pure. A value is what was read: text behind `-o`, or what TOML makes of it; what is not understood is a
ValueError in words that go behind the setting's name. Called by mount_options and unit_config.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import get_args

from guestmemfs_fuse.cli.sizes import parse_size
from guestmemfs_fuse.cli.wishes import GIGANTIC_PAGE_BYTES, HUGE_PAGE_BYTES
from guestmemfs_fuse.metadata.instance import HugeWish, RegionKind

Understand = Callable[[object], object]


def size(value: object) -> int:
    """A size in bytes."""
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError('write "4G" or a number of bytes')
    return parse_size(str(value))


def page_size(value: object) -> int:
    """One of the sizes huge pages have, in bytes."""
    found = size(value)
    if found not in (HUGE_PAGE_BYTES, GIGANTIC_PAGE_BYTES):
        raise ValueError("is 2M or 1G")
    return found


def one_of(*choices: str) -> Understand:
    """A word out of these."""

    def understand(value: object) -> object:
        if value not in choices:
            raise ValueError(f"is one of {', '.join(choices)}, not {value!r}")
        return value

    return understand


def absolute_path(value: object) -> str:
    """A path from the root: neither mount(8) nor systemd has a directory to be relative to."""
    if not isinstance(value, str) or not value.startswith("/"):
        raise ValueError(f"is an absolute path, not {value!r}")
    if "\0" in value:
        raise ValueError("has a zero byte, which no path can have")
    return value


def node(value: object) -> int:
    """The number of a NUMA node."""
    if isinstance(value, str) and value.isdecimal():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"is the number of a NUMA node, not {value!r}")
    return value


SETTINGS: Mapping[str, tuple[str, Understand]] = {
    "size": ("size_bytes", size),
    "region": ("kind", one_of(*get_args(RegionKind))),
    "page-size": ("page_bytes", page_size),
    "dax-dir": ("dax_dir", absolute_path),
    "numa-node": ("numa_node", node),
    "state-dir": ("state_dir", absolute_path),
    "huge": ("huge", one_of(*get_args(HugeWish))),
}
"""Name to the field of Wishes, and what understands its value."""
