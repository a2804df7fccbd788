"""The QEMU option that maps a file of ours without the launcher. Called by `map --qemu`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from guestmemfs_fuse.cli.sizes import exact_size
from guestmemfs_fuse.core.errors import DaemonError, UsageError
from guestmemfs_fuse.metadata.instance import Instance


def memory_option(instance: Instance, inside: str) -> list[str]:
    """["-object", "memory-backend-file,..."] for the file `inside` a served instance.

    Raises UsageError when the file has no memory or is in several pieces, DaemonError when nobody serves it.
    """
    from guestmemfs_fuse.cli import daemons

    wait_s = daemons.RESTART_WAIT_S
    shown: Any = daemons.ask(instance, "map", {"path": "/" + inside}, wait_s=wait_s)
    layout: Any = daemons.ask(instance, "layout", {"ino": shown["ino"]}, wait_s=wait_s)
    if not isinstance(layout, Mapping) or "segments" not in layout:
        raise DaemonError(f"the daemon's layout of /{inside} makes no sense")
    return ["-object", backend(os.path.join(instance.config.mountpoint, inside), layout)]


def backend(mount_path: str, layout: Mapping[str, Any]) -> str:
    """The value of -object; layout: see Region.layout. Pure. Raises UsageError."""
    if not layout["segments"]:
        raise UsageError(f"{mount_path} has no memory yet", hint="truncate -s SIZE gives it some")
    if len(layout["segments"]) > 1:
        raise UsageError(
            f"{mount_path} is in {len(layout['segments'])} pieces, which QEMU cannot map by itself",
            hint="start it with `guestmemfs run`",
        )
    path = mount_path if layout["passthrough"] else str(layout["path"])
    ((_, offset_bytes, _),) = layout["segments"]
    options = [
        "memory-backend-file,id=ram0",
        f"size={exact_size(layout['size_bytes'])}",
        "mem-path=" + path.replace(",", ",,"),
        "share=on",
        f"align={exact_size(layout['page_bytes'])}",
    ]
    if offset_bytes:
        options.append(f"offset={offset_bytes}")
    return ",".join(options)
